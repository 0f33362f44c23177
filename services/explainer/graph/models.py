"""The nodes of a graph that are a model: trees and linear ones, with what they do to their own scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.explainer.estimate import Floats
from services.explainer.graph.attributes import Attributes, described
from services.explainer.graph.read_trees import read_ensemble, read_nodes
from services.explainer.graph.refusal import NotReadable
from services.explainer.graph.score import Score, Weights
from services.explainer.graph.table import Table
from services.explainer.graph.trees import Trees

__all__ = ["LINEAR", "PRODUCTS", "TREES", "read_model", "read_product"]

TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")
PRODUCTS = ("MatMul", "Gemm")
LINEAR = ("LinearClassifier", "LinearRegressor")
MOST_WEIGHTS = 2**24
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")  # numbered as in opset 5
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


def read_model(node: Any, table: Table) -> Score:
    """The scores of one of `TREES` or `LINEAR`, as ONNX Runtime gives them out."""
    if table.is_text or table.sources.ndim != 2:
        raise NotReadable(f"{described(node)}: expected numbers [rows, columns] as input")
    if node.op_type in LINEAR:
        return _linear(node, table)
    if node.op_type == "TreeEnsembleClassifier":
        return _tree_classifier(node, table)
    return _tree_regressor(node, table)


def _linear(node: Any, table: Table) -> Score:
    """A LinearClassifier or LinearRegressor."""
    where, a = described(node), Attributes(node)
    coefficients = a.array("coefficients", np.float64)
    classifies = node.op_type == "LinearClassifier"
    scores = max(1, len(a.array("intercepts", np.float64)) if classifies else int(a.get("targets", 1)))
    intercept = a.array("intercepts", np.float64)
    if coefficients.size != scores * table.width or intercept.size not in (0, scores):
        raise NotReadable(f"{where}: expected {scores} × {table.width} coefficients, got {coefficients.size}")
    weights = _weights(where, coefficients.reshape(scores, table.width).T, intercept, scores)
    score = Score.of(weights, table)
    transform = _transform(where, a)
    if classifies and scores == 1:
        if _labels(a) != 2 or transform == "SOFTMAX":
            raise NotReadable(f"{where}: one score for {_labels(a)} classes with {transform} is not supported")
        if transform == "LOGISTIC":
            return score.of_two_classes("logit")
        return score.of_two_classes("identity", ones_complement=True)
    return _transformed(score, transform)


def read_product(node: Any, table: Table, constants: Sequence[NDArray[Any] | None]) -> Score:
    """A MatMul or Gemm of columns with constants: a linear model."""
    where, a = described(node), Attributes(node)
    matrix = constants[1] if len(constants) > 1 else None
    gemm = node.op_type == "Gemm"
    if matrix is None or table.is_text or table.sources.ndim != 2 or matrix.ndim != 2 or a.get("transA", 0):
        raise NotReadable(f"{where}: expected the product of columns with a constant matrix")
    if gemm and a.get("transB", 0):
        matrix = matrix.T
    if matrix.shape[0] != table.width:
        raise NotReadable(f"{where}: expected a matrix of {table.width} rows, got {matrix.shape[0]}")
    scores = matrix.shape[1]
    bias = constants[2] if len(constants) > 2 else None
    if bias is None and len(node.input) > 2 and node.input[2]:
        raise NotReadable(f"{where}: expected a constant bias")
    intercept = np.zeros(scores) if bias is None else bias.astype(np.float64).ravel()
    if intercept.size not in (1, scores):
        raise NotReadable(f"{where}: expected a bias of {scores} columns for all rows, got {intercept.size}")
    alpha, beta = (a.get("alpha", 1.0), a.get("beta", 1.0)) if gemm else (1.0, 1.0)
    whole = np.array(np.broadcast_to(beta * intercept, scores))
    return Score.of(_weights(where, alpha * matrix.astype(np.float64), whole, scores), table)


def _weights(where: str, coefficients: Floats, intercept: Floats, scores: int) -> Weights:
    if coefficients.size > MOST_WEIGHTS:
        raise NotReadable(f"{where}: expected at most {MOST_WEIGHTS} coefficients, got {coefficients.size}")
    if not (np.isfinite(coefficients).all() and np.isfinite(intercept).all()):
        raise NotReadable(f"{where}: a coefficient is not finite")
    return Weights(coefficients, intercept if intercept.size else np.zeros(scores))


def _tree_classifier(node: Any, table: Table) -> Score:
    """With two classes ONNX Runtime goes by what the leaves hold: one score for both classes, or one for each
    (core/providers/cpu/ml/tree_ensemble_aggregator.h, TreeAggregatorClassifier)."""
    where, a = described(node), Attributes(node)
    transform, classes = _transform(where, a), _labels(a)
    ids, base = a.array("class_ids", np.int64), a.floats("base_values").astype(np.float64)
    weights = a.array("class_weights", np.float64)
    if classes == 2 and len(np.unique(ids)) == 1:
        if ids[0] != 0 or base.size > 1 or transform == "SOFTMAX":
            raise NotReadable(
                f"{where}: one score for two classes, of class {ids[0]} with {base.size} base values and {transform}, is not "
                "supported"
            )
        score = Score.of(_with_base(_trees(node, "class", 1, table), base), table)
        if transform == "LOGISTIC":
            return score.of_two_classes("logit")
        return score.of_two_classes("identity", ones_complement=bool((weights >= 0).all()))
    if classes == 1 and transform != "NONE":
        raise NotReadable(f"{where}: {transform} of one class is not supported")
    if base.size not in (0, classes) or (classes == 2 and base.size):
        raise NotReadable(f"{where}: {base.size} base values for {classes} classes are not supported")
    trees = _trees(node, "class", max(classes, 1), table)
    if classes == 2 and np.count_nonzero(ids == 1) != np.count_nonzero(trees.is_leaf):
        raise NotReadable(f"{where}: of two classes expected a value for the second at every leaf")
    return _transformed(Score.of(_with_base(trees, base), table), transform)


def _tree_regressor(node: Any, table: Table) -> Score:
    where, a = described(node), Attributes(node)
    targets = int(a.get("n_targets", 1))
    if targets < 1:
        raise NotReadable(f"{where}: expected at least one target, got {targets}")
    aggregate = a.get("aggregate_function", b"SUM" if node.op_type != "TreeEnsemble" else 1)
    name = aggregate.decode("utf-8", "replace") if isinstance(aggregate, bytes) else AGGREGATES[aggregate & 3]
    if name not in ("SUM", "AVERAGE"):
        raise NotReadable(f"{where}: the {name[:40]} of trees is no sum that contributions could be told apart in")
    transform = _transform(where, a)
    trees = _trees(node, "target", targets, table)
    if name == "AVERAGE":
        trees = replace(trees, values=trees.values / trees.trees)
    base = a.floats("base_values").astype(np.float64)
    if base.size not in (0, targets):
        raise NotReadable(f"{where}: {base.size} base values for {targets} targets are not supported")
    if transform == "SOFTMAX" and targets == 1:
        raise NotReadable(f"{where}: SOFTMAX of one target is not supported")
    return _transformed(Score.of(_with_base(trees, base), table), transform)


def _trees(node: Any, prefix: str, scores: int, table: Table) -> Trees:
    dtype = np.float64 if table.dtype == np.float64 else np.float32
    trees = (
        read_ensemble(node, scores, dtype)
        if node.op_type == "TreeEnsemble"
        else read_nodes(node, prefix, scores, dtype)
    )
    highest = int(trees.feature.max())
    if highest >= table.width:
        raise NotReadable(f"{described(node)}: a split is on feature {highest} of {table.width}")
    return trees


def _with_base(trees: Trees, base: Floats) -> Trees:
    return replace(trees, base=base) if base.size else trees


def _labels(a: Attributes) -> int:
    return max(len(a.get(name, ())) for name in ("classlabels_int64s", "classlabels_ints", "classlabels_strings"))


def _transform(where: str, a: Attributes) -> str:
    given = a.get("post_transform", b"NONE")
    name = given.decode("utf-8", "replace") if isinstance(given, bytes) else dict(enumerate(TRANSFORMS)).get(given, "?")
    if name not in TRANSFORMS[:3]:
        raise NotReadable(f"{where}: post_transform {name[:40]} is not supported, only NONE, LOGISTIC and SOFTMAX")
    return name


def _transformed(score: Score, transform: str) -> Score:
    if transform == "SOFTMAX":
        return score.through("softmax")
    return score.through("logit") if transform == "LOGISTIC" else score
