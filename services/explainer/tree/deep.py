"""Attributions of long paths, for which tables over patterns would be too large: polynomial in the number of players."""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.explainer.estimate import Floats

__all__ = ["against_background", "by_shares"]


def by_shares(patterns: NDArray[Any], shares: Floats) -> Floats:
    """Path-dependent, of leaves with value 1: [leaves, d, rows] from patterns [leaves, rows] and shares [leaves, d].

    The value of player i is ∫ (o_i - r_i) Π_{j≠i} (t o_j + (1-t) r_j) dt over t from 0 to 1 (Owen, "Multilinear extensions of
    games", 1972), o being what the row satisfies and r the shares. That is a polynomial of degree d-1 in t, which ⌈d/2⌉ nodes
    of Gauss and Legendre integrate exactly; all terms are positive, so no digits are lost.
    """
    length = shares.shape[1]
    satisfied = _bits(patterns, length)
    nodes, weights = np.polynomial.legendre.leggauss((length + 1) // 2)
    rest = np.zeros(satisfied.shape)
    r = shares[:, :, None]
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        factors = (1 - node) * r + node * satisfied
        before = np.ones_like(factors)
        np.cumprod(factors[:, :-1], axis=1, out=before[:, 1:])
        after = np.ones_like(factors)
        after[:, :-1] = np.cumprod(factors[:, :0:-1], axis=1)[:, ::-1]
        rest += weight * before * after
    rest *= satisfied - r
    return rest


def against_background(patterns: NDArray[Any], background: NDArray[Any], weights: Floats, length: int) -> Floats:
    """Interventional, of leaves with value 1: [leaves, d, rows] from the patterns of rows and of the background.

    Against one background row only the players that either row alone satisfies count: a of them the row, c the background, and
    together they must be all. Each of the first gets (a-1)! c! / (a+c)!, each of the others less a! (c-1)! / (a+c)!.
    """
    values = np.zeros((len(patterns), length, patterns.shape[1]))
    one, slots = np.uint64(1), np.arange(length, dtype=np.uint64)[:, None]
    full = (one << np.uint64(length)) - one
    leaf, row, other = np.nonzero((patterns[:, :, None] | background[:, None, :]) == full.astype(patterns.dtype))
    if not len(leaf):
        return values
    mine, theirs = patterns[leaf, row].astype(np.uint64), background[leaf, other].astype(np.uint64)
    of_row, of_background = mine & ~theirs, theirs & ~mine
    gained, lost = _coefficients(length)
    a, c = np.bitwise_count(of_row), np.bitwise_count(of_background)
    gain, loss = weights[other] * gained[a, c], weights[other] * lost[a, c]
    each = (of_row >> slots & one) * gain - (of_background >> slots & one) * loss  # [slots, pairs]
    begins = np.flatnonzero(np.diff(leaf * patterns.shape[1] + row, prepend=-1))  # pairs come ordered by leaf and row
    values[leaf[begins], :, row[begins]] = np.add.reduceat(each, begins, axis=1).T
    return values


def _coefficients(length: int) -> tuple[Floats, Floats]:
    gained, lost = np.zeros((length + 1, length + 1)), np.zeros((length + 1, length + 1))
    for a in range(length + 1):
        for c in range(length + 1 - a):
            if a:
                gained[a, c] = factorial(a - 1) * factorial(c) / factorial(a + c)
            if c:
                lost[a, c] = factorial(a) * factorial(c - 1) / factorial(a + c)
    return gained, lost


def _bits(patterns: NDArray[Any], length: int) -> Floats:
    """[leaves, slots, rows], 0 or 1."""
    slots = np.arange(length, dtype=np.uint64)[None, :, None]
    bits: Floats = (patterns.astype(np.uint64)[:, None, :] >> slots & np.uint64(1)).astype(np.float64)
    return bits
