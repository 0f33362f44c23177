"""What makes a Shapley value one, for every method that samples, on games that are tables."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.explainer.coalitions import all_subsets
from tests.unit.explainer.methods.games import METHODS, Game, estimates_of

PLAYERS = 6
EVALUATIONS = {"kernel": 50, "permutation": 2 + 10 * 12}  # of 64 coalitions some are not asked about; twelve pairs
tables = st.lists(st.floats(-100, 100, width=32), min_size=2**PLAYERS, max_size=2**PLAYERS).map(np.array)
seeds = st.integers(0, 2**32)
# Where a claim holds within an error only: no table that hides what is drawn seldom.
random_tables = seeds.map(lambda seed: np.random.default_rng(seed).normal(size=2**PLAYERS))
by_method = pytest.mark.parametrize("method", METHODS)


def attributions_of(table: np.ndarray, method: str, seed: int) -> np.ndarray:
    """[players], and the standard errors."""
    return estimate_of(table, method, seed).attributions[0, :, 0]


def estimate_of(table: np.ndarray, method: str, seed: int):
    return asyncio.run(estimates_of(Game(table[None, :, None]), method, EVALUATIONS[method], seed))[-1]


@by_method
@settings(deadline=None, max_examples=30)
@given(tables, seeds)
def test_attributions_add_up_to_what_all_have_more_than_none(method: str, table: np.ndarray, seed: int) -> None:
    """Efficiency, of every sample."""
    assert attributions_of(table, method, seed).sum() == pytest.approx(table[-1] - table[0], abs=1e-9)


@by_method
@settings(deadline=None, max_examples=30)
@given(tables, tables, st.floats(-10, 10), seeds)
def test_attributions_are_linear_in_the_model(
    method: str, first: np.ndarray, second: np.ndarray, factor: float, seed: int
) -> None:
    """Linearity, of every sample: the same coalitions are asked about whatever their values are."""
    expected = attributions_of(first, method, seed) + factor * attributions_of(second, method, seed)

    assert attributions_of(first + factor * second, method, seed) == pytest.approx(expected, abs=1e-7)


@by_method
@settings(deadline=None, max_examples=20, derandomize=True)  # a bound of chance is met or not once and for all
@given(random_tables, seeds)
def test_a_player_that_changes_nothing_gets_nothing(method: str, table: np.ndarray, seed: int) -> None:
    """Dummy: exactly by permutations, and by the regression within 6 of its standard errors."""
    masks, number = all_subsets(PLAYERS), np.arange(2**PLAYERS)
    table = np.where(masks[:, 2], table[number & ~(1 << 2)], table)

    estimate = estimate_of(table, method, seed)

    error = 0.0 if method == "permutation" else 6 * estimate.std_error[0, 2, 0]
    assert abs(estimate.attributions[0, 2, 0]) <= error + 1e-9


@by_method
@settings(deadline=None, max_examples=20, derandomize=True)  # a bound of chance is met or not once and for all
@given(random_tables, seeds)
def test_players_that_do_the_same_get_the_same(method: str, table: np.ndarray, seed: int) -> None:
    """Symmetry, within 6 standard errors of the difference: a sample does not meet both players alike."""
    number = np.arange(2**PLAYERS)
    swapped = number & ~3 | (number & 1) << 1 | (number & 2) >> 1

    estimate = estimate_of(table + table[swapped], method, seed)

    difference = abs(estimate.attributions[0, 0, 0] - estimate.attributions[0, 1, 0])
    assert difference <= 6 * estimate.std_error[0, :2, 0].sum() + 1e-9
