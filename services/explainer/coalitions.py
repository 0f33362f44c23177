"""Coalitions as masks: a row per coalition, a column per player, true where the player is known."""

from __future__ import annotations

from functools import lru_cache
from math import factorial

import numpy as np
from numpy.typing import NDArray

__all__ = ["Masks", "all_subsets", "chain", "shapley_weights"]

Masks = NDArray[np.bool_]


@lru_cache(maxsize=8)
def all_subsets(players: int) -> Masks:
    """Every coalition, [2^players, players], the empty one first, the full one last; player `i` is bit `i` of a row's number."""
    numbers = np.arange(2**players)
    masks: Masks = (numbers[:, None] >> np.arange(players)) & 1 == 1
    masks.flags.writeable = False  # shared by everybody who asks
    return masks


@lru_cache(maxsize=8)
def shapley_weights(players: int) -> NDArray[np.float64]:
    """The matrix [players, 2^players] whose product with the values of `all_subsets` is the Shapley values.

    A coalition of s players weighs (s-1)!(m-s)!/m! for its members and -s!(m-s-1)!/m! for the others (Shapley, "A value for
    n-person games", 1953, eq. 13, terms collected by coalition).
    """
    masks = all_subsets(players)
    joined = [factorial(s) * factorial(players - s - 1) / factorial(players) for s in range(players)]
    sizes = masks.sum(axis=1)
    member = np.array([0.0, *joined])[sizes]  # who belongs to it joined one player fewer
    other = np.array([*joined, 0.0])[sizes]
    weights: NDArray[np.float64] = np.where(masks, member[:, None], -other[:, None]).T.copy()
    weights.flags.writeable = False
    return weights


def chain(ranks: NDArray[np.intp]) -> Masks:
    """The coalitions between none and all in which players join in the order of `ranks`, [players - 1, players].

    `ranks[p]` is the place of player `p`, from 0; row `k` holds the first `k + 1` players.
    """
    return ranks <= np.arange(len(ranks) - 1)[:, None]
