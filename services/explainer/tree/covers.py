"""How many rows come to each node, which the path-dependent value function splits by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from infermesh.tensors import Array
from services.explainer.estimate import Floats
from services.explainer.graph import NotReadable
from services.explainer.graph.trees import Trees
from services.explainer.tree.decide import goes_true

__all__ = ["counted", "given", "shares"]

PIECE_ELEMENTS = 2**20  # nodes × rows at a time


def given(trees: Trees, covers: Floats) -> Floats:
    """Covers by node in the order of the file, in that of `trees`."""
    if covers.shape != (len(trees.order),) or not np.isfinite(covers).all() or (covers < 0).any():
        raise NotReadable(f"expected {len(trees.order)} covers, none negative, got shape {list(covers.shape)}")
    ordered: Floats = covers[trees.order].astype(np.float64)
    return ordered


def counted(trees: Trees, background: Array, weights: Floats, between: Callable[[], None]) -> Floats:
    """The weight of the background rows that come to each node."""
    cover = np.zeros(len(trees.feature))
    step = max(1, PIECE_ELEMENTS // len(trees.feature))
    for at in range(0, len(background), step):
        between()
        cover += _counted(trees, np.ascontiguousarray(background[at : at + step].T), weights[at : at + step])
    return cover


def _counted(trees: Trees, columns: Array, weights: Floats) -> Floats:
    cover = np.empty(len(trees.feature))
    here = np.ones((trees.levels[1], len(weights)), bool)
    for start, end in zip(trees.levels[:-1], trees.levels[1:], strict=True):
        inner = np.flatnonzero(~trees.is_leaf[start:end])
        cover[start:end] = here @ weights
        true = goes_true(trees, start + inner, columns)
        below = np.empty((2 * len(inner), len(weights)), bool)
        np.logical_and(here[inner], true, out=below[0::2])
        np.logical_and(here[inner], ~true, out=below[1::2])
        here = below
    return cover


def shares(trees: Trees, cover: Floats) -> Floats:
    """The share of its parent's cover that each node has; 1 at roots. Where no row comes, one half: nothing is known there."""
    share = np.ones(len(cover))
    inner = ~trees.is_leaf
    true, false = trees.true[inner], trees.false[inner]
    total = cover[true] + cover[false]
    share[true] = np.divide(cover[true], total, out=np.full(len(total), 0.5), where=total > 0)
    share[false] = 1 - share[true]
    return share
