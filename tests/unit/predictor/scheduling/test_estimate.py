"""What a run is expected to take, from those before it."""

from __future__ import annotations

import random

import pytest

from services.predictor.scheduling.estimate import Estimate


def learned(*runs: tuple[float, float]) -> Estimate:
    estimate = Estimate()
    for size, seconds in runs:
        estimate.observe(size, seconds)
    return estimate


def test_nothing_is_expected_before_some_runs() -> None:
    """The first runs of a session are slow and say little."""
    estimate = learned(*[(4, 1.0)] * 4)

    assert not estimate.known
    assert estimate.seconds(4) == 0.0


def test_a_line_is_found_from_noisy_runs() -> None:
    """Fixed part and slope are within 10 % of the true ones, of runs that vary by a tenth (seed 0)."""
    draw = random.Random(0)
    sizes = [draw.randint(1, 64) * 16 for _ in range(200)]
    estimate = learned(*[(size, (0.002 + 1e-5 * size) * draw.uniform(0.9, 1.1)) for size in sizes])

    assert estimate.seconds(16 * 32) == pytest.approx(0.002 + 1e-5 * 16 * 32, rel=0.1)
    assert estimate.seconds(16 * 64) == pytest.approx(0.002 + 1e-5 * 16 * 64, rel=0.1)


def test_runs_of_one_size_are_taken_to_be_proportional() -> None:
    """Nothing is known of a larger batch: careful, until one was run."""
    estimate = learned(*[(4, 0.01)] * 20)
    assert estimate.seconds(4) == pytest.approx(0.01)
    assert estimate.seconds(40) == pytest.approx(0.1)

    estimate.observe(40, 0.012)

    assert estimate.seconds(40) == pytest.approx(0.012, rel=0.05)
    assert estimate.seconds(4) == pytest.approx(0.01, rel=0.05)


def test_larger_runs_are_never_expected_to_be_faster() -> None:
    """A slope below zero is noise; so is a fixed part below zero."""
    falling = learned(*[(1, 0.02), (2, 0.01)] * 10)
    rising = learned(*[(1, 0.001), (2, 0.01)] * 10)

    assert falling.seconds(2) == falling.seconds(1) > 0
    assert rising.fixed_s == 0.0
    assert rising.seconds(2) == pytest.approx(2 * rising.seconds(1))


def test_what_was_is_forgotten() -> None:
    """A model that got ten times faster is known to be so after some hundred runs."""
    estimate = learned(*[(4, 0.1), (8, 0.2)] * 50, *[(4, 0.01), (8, 0.02)] * 60)

    assert estimate.seconds(4) == pytest.approx(0.01, rel=0.1)


def test_one_hiccup_counts_little() -> None:
    """A run that took a thousand times as long counts as ten times: it does not turn callers away."""
    estimate = learned(*[(4, 0.001), (8, 0.002)] * 20)

    estimate.observe(4, 1.0)

    assert estimate.seconds(4) < 0.003


def test_runs_without_bytes_have_a_mean() -> None:
    """A model without inputs, or only zero rows, divides by nothing."""
    assert learned(*[(0, 0.5)] * 6).seconds(0) == pytest.approx(0.5)


def test_a_model_that_got_slower_is_known_to_be_so_soon() -> None:
    """The bound for hiccups does not hold a change back: a hundred times slower is found within twenty runs."""
    estimate = learned(*[(4, 0.001), (8, 0.002)] * 20, *[(4, 0.1), (8, 0.2)] * 10)

    assert estimate.seconds(4) > 0.03


def test_of_larger_runs_no_more_is_expected_than_of_the_largest_that_was_seen() -> None:
    """Where it would refuse somebody: neither a line nor proportion is followed past what was run, nor what was run long ago."""
    equal, line = learned(*[(4, 0.01)] * 20), learned(*[(4, 0.01), (8, 0.02)] * 10)
    long_ago = learned((4000, 0.02), *[(4, 0.01)] * 2000)

    assert equal.seconds_as_seen(4000) == pytest.approx(0.01)
    assert line.seconds_as_seen(4000) == pytest.approx(0.02)
    assert long_ago.seconds_as_seen(4000) == pytest.approx(0.01)


def test_a_run_that_was_ended_counts_only_if_it_took_longer() -> None:
    """It is a lower bound: of less than is expected it says nothing."""
    estimate = learned(*[(4, 0.01)] * 20)

    estimate.observe_at_least(4, 0.005)
    assert estimate.seconds(4) == pytest.approx(0.01)
    for _ in range(20):
        estimate.observe_at_least(4, 0.3)

    assert 0.15 < estimate.seconds(4) <= 0.3
