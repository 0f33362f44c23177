"""Proof that a p-value of the PSI is what it says, and that intervals cover, over seeded runs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from services.gateway.compare.proportion import Proportion
from services.gateway.compare.psi import psi_test
from services.gateway.compare.shift import ColumnShift, LabelShift, Mean
from tests.unit.gateway.compare.pairs import Scores

PAIRS = 200


def uniform_p(seed: int, kind: str, draws: int) -> float:
    """The p-value of one A/A run with chance deciding between redraws as large: uniform if the test is exact."""
    scores = Scores(seed, noise=0.0 if kind == "rounding" else 0.3)
    pairs = np.stack(scores.twice(PAIRS), 1).tolist()
    shift, labels = ColumnShift(10, PAIRS), LabelShift()
    for first, second in pairs:
        shift.add(first, second)
        labels.add(str(first > 0.5), str(second > 0.5))
    table = labels.table() if kind == "labels" else shift.table()
    assert table is not None
    test = psi_test(table, scores.numbers, draws)
    return float((test.above + scores.numbers.random() * (1 + test.equal)) / (1 + draws))


@pytest.mark.parametrize("kind", ["noise", "labels", "rounding"])
def test_p_values_are_uniform_when_nothing_shifted(kind: str) -> None:
    """Of 150 A/A runs the p-values pass Kolmogorov and Smirnov's test against uniform (an error in 1,000 seeds)."""
    assert stats.kstest([uniform_p(seed, kind, 199) for seed in range(150)], "uniform").pvalue > 0.001


@pytest.mark.long
@pytest.mark.parametrize("kind", ["noise", "labels", "rounding"])
def test_p_values_are_uniform_in_many_runs(kind: str) -> None:
    """The same of 5,000 runs."""
    assert stats.kstest([uniform_p(seed, kind, 999) for seed in range(5000)], "uniform").pvalue > 0.001


def test_the_chi_squared_of_independent_samples_would_be_wrong() -> None:
    """Pairs are alike: held against χ² hardly a p-value would be small, so a shift would be missed. Hence our own test."""
    naive = []
    for seed in range(100):
        shift = ColumnShift(10, PAIRS)
        for first, second in np.stack(Scores(seed, 0.3).twice(PAIRS), 1).tolist():
            shift.add(first, second)
        table = shift.table()
        assert table is not None
        found = psi_test(table, np.random.default_rng(seed), 1).psi
        naive.append(stats.chi2.sf(found * PAIRS / 2, 9))

    assert stats.kstest(naive, "uniform").pvalue < 1e-9
    assert np.mean(np.array(naive) < 0.05) < 0.01


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_the_interval_of_the_mean_covers(shift: float) -> None:
    """In at least 93 % of 500 runs the 95 % interval holds the planted mean difference."""
    assert _covered_means(500, shift) >= 0.93


@pytest.mark.long
def test_the_interval_of_the_mean_covers_in_many_runs() -> None:
    """The same of 2,000 runs."""
    assert _covered_means(2000, 0.05) >= 0.93


def test_the_interval_of_a_rate_covers() -> None:
    """In at least 93 % of 500 runs the 95 % interval holds the planted flip rate."""
    numbers = np.random.default_rng(8)
    hits, runs = np.unique(numbers.binomial(500, 0.04, 500), return_counts=True)
    found = [Proportion(int(each), 500) for each in hits]

    assert np.average([each.low <= 0.04 <= each.high for each in found], weights=runs) >= 0.93


def _covered_means(runs: int, planted: float) -> float:
    held = 0
    for seed in range(runs):
        first, second = Scores(seed, 0.3).twice(PAIRS)
        difference: NDArray[np.float64] = second - first + planted
        mean = Mean()
        for value in difference.tolist():
            mean.add(value)
        low, high = mean.interval()
        held += low <= planted <= high
    return held / runs
