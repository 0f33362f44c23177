"""A running mean, and its error for few samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from services.explainer.methods.running import Running, widened


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 40, 1000])
def test_errors_of_few_samples_are_widened_as_student_has_it(freedom: int) -> None:
    assert widened(freedom) == pytest.approx(student(freedom).ppf(0.975) / norm.ppf(0.975), rel=0.01)


def test_a_player_that_never_moved_is_as_unsure_as_the_answers_span() -> None:
    """Over the samples; one that moved has the deviation of the one that moves most as one more of its own."""
    draws = np.random.default_rng(1).normal(size=(12, 1, 3, 1)) * np.array([0.0, 0.1, 1.0])[:, None]
    running = Running(1, 3, 1)
    running.spans(np.full((1, 1), 6.0))
    for draw in draws:
        running.add(draw)

    squares = draws.var(axis=0, ddof=1) * 11
    expected = np.sqrt((squares + squares.max() / 11) / 12 / 12) * widened(11)
    assert running.mean == pytest.approx(draws.mean(axis=0))
    assert running.error()[0, 0, 0] == 6.0 / 12
    assert running.error()[0, 1:] == pytest.approx(expected[0, 1:])


def test_one_sample_and_samples_of_what_is_all_the_same_tell_no_error() -> None:
    running = Running(2, 3, 1)
    running.add(np.ones((2, 3, 1)))
    one = running.error()
    running.spans(np.array([[0.0], [1.0]]))
    running.add(np.ones((2, 3, 1)))

    assert np.isinf(one).all()
    assert np.isinf(running.error()[0]).all()
    assert (running.error()[1] == 0.5).all()
