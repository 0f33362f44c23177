"""Attributions of short paths, as tables over patterns.

To a leaf with players 1 … d and value w belongs the game v(S) = w · [S ⊆ P] · R(not S): P are the players whose conditions the
row satisfies, R(U) is how much of what stands for "unknown" satisfies the conditions of U. For the interventional value
function that is the weight of the background rows that do, for the path-dependent one the product of the shares of covers. The
Shapley values of that game depend on the row by P alone, so 2^d of them are all there are (the idea of Yang, "Fast TreeSHAP:
Accelerating SHAP Value Computation for Trees", 2021; the games are those of Lundberg et al., "From local explanations to global
understanding with explainable AI for trees", 2020, and of Laberge and Pequignot, "Understanding Interventional TreeSHAP: How and
Why it Works", 2022, for players of several columns).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.explainer.coalitions import shapley_weights
from services.explainer.estimate import Floats

__all__ = ["background_satisfies", "shares_satisfy", "tables"]


def shares_satisfy(shares: Floats) -> Floats:
    """R for the path-dependent value function, [leaves, 2^d]: products of the shares [leaves, d]."""
    satisfied = np.ones((len(shares), 1))
    for share in shares.T:  # the next player's bit is the next higher one
        satisfied = np.concatenate([satisfied, satisfied * share[:, None]], axis=1)
    return satisfied


def background_satisfies(patterns: NDArray[Any], weights: Floats, length: int) -> Floats:
    """R for the interventional value function, [leaves, 2^d], from the patterns of the background, [leaves, rows]."""
    leaves, size = len(patterns), 2**length
    place = patterns.astype(np.intp) + size * np.arange(leaves)[:, None]
    weighed = np.broadcast_to(weights, patterns.shape)
    satisfied: Floats = np.bincount(place.ravel(), weighed.ravel(), leaves * size).astype(np.float64)
    satisfied = satisfied.reshape(leaves, size)
    for bit in range(length):  # sums over supersets
        halves = satisfied.reshape(leaves, -1, 2, 2**bit)
        halves[:, :, 0] += halves[:, :, 1]
    return satisfied


def tables(satisfied: Floats, length: int) -> Floats:
    """[leaves, d, 2^d]: what each player gets for each pattern, of a leaf with value 1."""
    unknown = satisfied[:, ::-1]  # R(not S) in the order of S
    table = shapley_weights(length)[None] * unknown[:, None]
    for bit in range(length):  # sums over subsets: S ⊆ P
        halves = table.reshape(len(satisfied), length, -1, 2, 2**bit)
        halves[:, :, :, 1] += halves[:, :, :, 0]
    return table
