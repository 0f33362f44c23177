"""The enumeration of coalitions and the weights of their values."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from services.explainer.coalitions import all_subsets, chain, shapley_weights


def test_every_subset_comes_once_with_the_empty_one_first_and_the_full_one_last() -> None:
    """The 2^m coalitions are all there, in the order of their binary numbers."""
    masks = all_subsets(4)

    assert masks.shape == (16, 4)
    assert len({tuple(mask) for mask in masks}) == 16
    assert not masks[0].any()
    assert masks[-1].all()
    assert masks[5].tolist() == [True, False, True, False]


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_the_weights_are_the_mean_over_all_orders_of_joining(players: int) -> None:
    """The product with any values is the mean marginal contribution over all permutations, counted one by one."""
    values = np.random.default_rng(players).normal(size=2**players)
    expected = np.zeros(players)
    orders = list(permutations(range(players)))
    for order in orders:
        joined = 0
        for player in order:
            expected[player] += values[joined | 1 << player] - values[joined]
            joined |= 1 << player

    assert shapley_weights(players) @ values == pytest.approx(expected / len(orders), abs=1e-12)


def test_the_weights_of_twelve_players_share_out_what_there_is() -> None:
    """Each row weighs its members' coalitions 1 in all and the others -1, so that attributions are differences."""
    weights = shapley_weights(12)

    assert np.where(weights > 0, weights, 0).sum(axis=1) == pytest.approx(np.ones(12), abs=1e-12)
    assert weights.sum(axis=1) == pytest.approx(np.zeros(12), abs=1e-12)


def test_a_chain_lets_players_join_in_the_order_of_their_ranks() -> None:
    """The k-th coalition holds the players of the first k ranks; none and all are left out."""
    masks = chain(np.array([2, 0, 1]))

    assert masks.tolist() == [[False, True, False], [False, True, True]]
    assert chain(np.array([0])).shape == (0, 1)
