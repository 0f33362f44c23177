"""Trees from the nodes of ai.onnx.ml: TreeEnsembleClassifier and TreeEnsembleRegressor (1, 3), TreeEnsemble (5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.explainer.estimate import Floats
from services.explainer.graph.attributes import Attributes, described
from services.explainer.graph.refusal import NotReadable
from services.explainer.graph.trees import LEAF, MODES, Trees, in_levels

__all__ = ["read_ensemble", "read_nodes"]

Index = NDArray[np.intp]
MOST_VALUES = 2**26
COVER_TOLERANCE = 1e-3  # counts in FP32 that went through a converter
MODE_NUMBERS = {name.encode(): number for number, name in enumerate(MODES)} | {b"LEAF": LEAF}


def read_nodes(node: Any, prefix: str, scores: int, dtype: Any) -> Trees:
    """Of a TreeEnsembleClassifier (prefix `class`) or TreeEnsembleRegressor (`target`); `base` is left at 0, values as in the
    file."""
    where, a = described(node), Attributes(node)
    tree, number = a.array("nodes_treeids", np.int64), a.array("nodes_nodeids", np.int64)
    count = len(tree)
    names = a.get("nodes_modes", [])
    unknown = [name for name in names if name not in MODE_NUMBERS]
    if unknown:
        raise NotReadable(f"{where}: a branch of mode {unknown[0].decode('utf-8', 'replace')[:40]} is not supported")
    mode = np.array([MODE_NUMBERS[name] for name in names], np.int8)
    columns = {
        "nodes_nodeids": number,
        "nodes_modes": mode,
        **{name: a.array(name, np.int64) for name in ("nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids")},
        "nodes_values": a.floats("nodes_values"),
    }
    for name, column in columns.items():
        if len(column) != count or not count:
            raise NotReadable(f"{where}: expected {max(count, 1)} {name}, got {len(column)}")
    places = _Places(where, tree, number)
    leaf = mode == LEAF
    true, false = np.arange(count), np.arange(count)
    true[~leaf] = places.of(tree[~leaf], columns["nodes_truenodeids"][~leaf])
    false[~leaf] = places.of(tree[~leaf], columns["nodes_falsenodeids"][~leaf])
    has_parent = np.zeros(count, bool)
    has_parent[true[~leaf]] = has_parent[false[~leaf]] = True
    roots = np.flatnonzero(~has_parent)
    if len(np.unique(tree)) != len(roots) or len(np.unique(tree[roots])) != len(roots):
        raise NotReadable(f"{where}: expected one root in each of {len(np.unique(tree))} trees, got {len(roots)}")
    score, weight = a.array(f"{prefix}_ids", np.int64), a.floats(f"{prefix}_weights").astype(np.float64)
    at = places.of(a.array(f"{prefix}_treeids", np.int64), a.array(f"{prefix}_nodeids", np.int64))
    values = _values(where, count, scores, leaf, at, score, weight)
    return _trees(
        where, a, leaf, mode, columns["nodes_featureids"], columns["nodes_values"], true, false, values, roots, dtype
    )


def read_ensemble(node: Any, scores: int, dtype: Any) -> Trees:
    """Of a TreeEnsemble: inner nodes and leaves are counted apart, leaves come behind."""
    where, a = described(node), Attributes(node)
    mode = a.array("nodes_modes", np.int8)
    inner, leaves = len(mode), len(a.array("leaf_weights", np.float32))
    if ((mode < 0) | (mode >= len(MODES))).any():
        raise NotReadable(f"{where}: a branch of mode {int(mode.max())} (BRANCH_MEMBER) is not supported")
    ends = {}
    for side in ("true", "false"):
        number, is_leaf = a.array(f"nodes_{side}nodeids", np.int64), a.array(f"nodes_{side}leafs", bool)
        if len(number) != inner or len(is_leaf) != inner:
            raise NotReadable(f"{where}: expected {inner} nodes_{side}nodeids and nodes_{side}leafs")
        if ((number < 0) | (number >= np.where(is_leaf, leaves, inner))).any():
            raise NotReadable(f"{where}: a branch leads to a node that there is not")
        ends[side] = np.where(is_leaf, inner + number, number).astype(np.intp)
    roots = a.array("tree_roots", np.int64).astype(np.intp)
    # A tree that is one leaf is a node both of whose branches lead to that leaf: both become the leaf.
    lone = (ends["true"] == ends["false"]) & (ends["true"] >= inner)
    if roots.size and not 0 <= roots.min() <= roots.max() < inner:
        raise NotReadable(f"{where}: a root is out of range")
    roots = np.where(lone[roots], ends["true"][roots], roots)
    keep = np.concatenate([~lone, np.ones(leaves, bool)])
    renumbered = np.cumsum(keep) - 1
    feature, split = a.array("nodes_featureids", np.int64), a.floats("nodes_splits")
    score = a.array("leaf_targetids", np.int64)
    if len(feature) != inner or len(split) != inner or len(score) != leaves or not roots.size:
        raise NotReadable(f"{where}: its lists of nodes are of different lengths")
    count = int(keep.sum())
    leaf = np.concatenate([np.zeros(inner, bool), np.ones(leaves, bool)])[keep]
    itself = np.arange(inner, inner + leaves)
    true, false = (renumbered[np.concatenate([ends[side], itself])[keep]] for side in ("true", "false"))
    weight = a.floats("leaf_weights").astype(np.float64)
    values = _values(where, count, scores, leaf, renumbered[itself], score, weight)

    def with_leaves(column: Any, fill: Any, dtype: Any) -> Any:
        return np.concatenate([column, np.full(leaves, fill, column.dtype)])[keep].astype(dtype)

    missing = a.array("nodes_missing_value_tracks_true", bool)
    return _trees(
        where,
        a,
        leaf,
        with_leaves(mode, LEAF, np.int8),
        with_leaves(feature, 0, np.int64),
        with_leaves(split, 0, split.dtype),
        true,
        false,
        values,
        renumbered[roots],
        dtype,
        with_leaves(missing, False, bool) if missing.size == inner else np.zeros(count, bool),
    )


class _Places:
    """Where in the file the node of a tree with a number is."""

    def __init__(self, where: str, trees: NDArray[Any], numbers: NDArray[Any]) -> None:
        self._where = where
        self._all_trees, self._all_numbers = trees, numbers
        self._trees, tree = np.unique(trees, return_inverse=True)
        self._numbers, number = np.unique(numbers, return_inverse=True)
        keys = tree * len(self._numbers) + number
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        if (self._keys[1:] == self._keys[:-1]).any():
            raise NotReadable(f"{where}: two nodes of one tree have the same number")

    def of(self, trees: NDArray[Any], numbers: NDArray[Any]) -> Index:
        if len(trees) != len(numbers):
            raise NotReadable(f"{self._where}: the values of leaves are in lists of different lengths")
        tree, number = np.searchsorted(self._trees, trees), np.searchsorted(self._numbers, numbers)
        at = np.searchsorted(self._keys, tree * len(self._numbers) + number)
        found: Index = self._order[np.minimum(at, len(self._order) - 1)]
        if not (np.array_equal(self._all_trees[found], trees) and np.array_equal(self._all_numbers[found], numbers)):
            raise NotReadable(f"{self._where}: a branch or value belongs to a node that there is not")
        return found


def _trees(
    where: str,
    a: Attributes,
    leaf: NDArray[np.bool_],
    mode: NDArray[np.int8],
    feature: NDArray[Any],
    threshold: NDArray[Any],
    true: Index,
    false: Index,
    values: Floats,
    roots: Index,
    dtype: Any,
    missing: NDArray[np.bool_] | None = None,
) -> Trees:
    count = len(leaf)
    order, levels = in_levels(where, leaf, true, false, roots)
    if missing is None:
        missing = a.array("nodes_missing_value_tracks_true", bool)
        missing = missing if missing.size == count else np.zeros(count, bool)
    if (feature[~leaf] < 0).any():
        raise NotReadable(f"{where}: a split is on a negative feature")
    place = np.empty(count, np.intp)
    place[order] = np.arange(count)
    hits = a.floats("nodes_hitrates").astype(np.float64)
    trees = Trees(
        feature=np.where(leaf, 0, feature)[order].astype(np.intp),
        threshold=threshold[order].astype(dtype),
        mode=mode[order],
        missing_true=missing[order],
        true=place[true[order]],
        false=place[false[order]],
        values=values[order],
        base=np.zeros(values.shape[1]),
        levels=levels,
        cover=None,
        order=order,
        trees=len(roots),
    )
    return trees if len(hits) != count else _with_cover(trees, hits[order])


def _with_cover(trees: Trees, cover: Floats) -> Trees:
    """Keeps covers that are some: each node's is that of its children. Converters that have none write 1 everywhere."""
    inner = ~trees.is_leaf
    below = cover[trees.true[inner]] + cover[trees.false[inner]]
    if (cover < 0).any() or not np.allclose(below, cover[inner], rtol=COVER_TOLERANCE, atol=0) or not inner.any():
        return trees
    return Trees(**{**trees.__dict__, "cover": cover})


def _values(
    where: str, count: int, scores: int, leaf: NDArray[np.bool_], at: Index, score: NDArray[Any], weight: Floats
) -> Floats:
    if count * scores > MOST_VALUES:
        raise NotReadable(f"{where}: expected at most {MOST_VALUES} values, {count} nodes have {scores} each")
    if not len(at) == len(score) == len(weight):
        raise NotReadable(f"{where}: the values of leaves are in lists of different lengths")
    if score.size and not 0 <= score.min() <= score.max() < scores:
        raise NotReadable(f"{where}: a value belongs to score {int(score.max())}, there are {scores}")
    if not leaf[at].all():
        raise NotReadable(f"{where}: a value belongs to a node that is no leaf")
    if not np.isfinite(weight).all():
        raise NotReadable(f"{where}: a leaf's value is not finite")
    values = np.zeros((count, scores))
    np.add.at(values, (at, score), weight)
    return values
