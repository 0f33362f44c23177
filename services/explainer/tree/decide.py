"""Which way rows go at the nodes of trees, and where they end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array
from services.explainer.estimate import Floats
from services.explainer.graph.trees import LEAF, Trees

__all__ = ["goes_true", "scores"]

Index = NDArray[np.intp]

COMPARE: tuple[Any, ...] = (np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal)


def goes_true(trees: Trees, nodes: Index, columns: Array) -> NDArray[np.bool_]:
    """[nodes, rows] for inner nodes and the transposed matrix of rows, [columns, rows].

    Values are compared with thresholds in the thresholds' datatype. NaN fails all comparisons but "not equal", and goes to
    "true" where the node says so.
    """
    values = columns[trees.feature[nodes]]
    if values.dtype != trees.threshold.dtype:
        values = values.astype(trees.threshold.dtype)
    thresholds, modes = trees.threshold[nodes, None], trees.mode[nodes]
    used = np.unique(modes)
    if len(used) == 1:
        true: NDArray[np.bool_] = COMPARE[used[0]](values, thresholds)
    else:
        true = np.empty(values.shape, bool)
        for mode in used:
            chosen = modes == mode
            true[chosen] = COMPARE[mode](values[chosen], thresholds[chosen])
    missing = trees.missing_true[nodes]
    if missing.any():
        true |= np.isnan(values) & missing[:, None]
    return true


def scores(trees: Trees, matrix: Array) -> Floats:
    """[rows, scores], in FP64: each row is followed through each tree. It takes another way than the attributions do, so that
    their sum can be held against it."""
    rows = np.arange(len(matrix))[:, None]
    here = np.broadcast_to(np.arange(trees.levels[1]), (len(matrix), trees.levels[1]))
    used = [mode for mode in np.unique(trees.mode) if mode != LEAF]
    has_missing = bool(trees.missing_true.any())
    values_of = matrix.astype(trees.threshold.dtype, copy=False)
    for _ in range(len(trees.levels) - 2):
        values, thresholds = values_of[rows, trees.feature[here]], trees.threshold[here]
        if len(used) == 1:
            true = COMPARE[used[0]](values, thresholds)
        else:
            mode = trees.mode[here]
            true = np.zeros(values.shape, bool)
            for each in used:
                true |= (mode == each) & COMPARE[each](values, thresholds)
        if has_missing:
            true |= np.isnan(values) & trees.missing_true[here]
        here = np.where(true, trees.true[here], trees.false[here])
    total: Floats = trees.values[here].sum(axis=1) + trees.base
    return total
