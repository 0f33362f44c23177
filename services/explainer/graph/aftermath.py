"""The operators between a model's scores and an output of the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from services.explainer.graph.attributes import Attributes, described
from services.explainer.graph.preparation import Constants
from services.explainer.graph.refusal import NotReadable
from services.explainer.graph.score import Score

__all__ = ["AFTERMATH"]

Scores = Sequence[Score | None]


def _identity(node: Any, scores: Scores, constants: Constants) -> Score:
    return _only(node, scores)


def _cast(node: Any, scores: Scores, constants: Constants) -> Score:
    if Attributes(node).get("to") not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        raise NotReadable(f"{described(node)}: what it casts scores to is no floating datatype")
    return _only(node, scores)


def _sigmoid(node: Any, scores: Scores, constants: Constants) -> Score:
    return _first_link(node, _only(node, scores)).through("logit")


def _softmax(node: Any, scores: Scores, constants: Constants) -> Score:
    if Attributes(node).get("axis", -1) not in (1, -1):
        raise NotReadable(f"{described(node)}: expected the softmax over the columns")
    return _first_link(node, _only(node, scores)).through("softmax")


def _normalizer(node: Any, scores: Scores, constants: Constants) -> Score:
    score = _only(node, scores)
    if Attributes(node).text("norm", "MAX") != "L1" or not score.sums_to_one():
        raise NotReadable(f"{described(node)}: it mixes columns: each output depends on all scores")
    return score


def _arithmetic(node: Any, scores: Scores, constants: Constants) -> Score:
    """With a constant per column, before a link; after a logit, 1 less it."""
    score, where = _only(node, scores), described(node)
    first = scores[0] is score
    given = constants[1] if first else constants[0]
    if given is None or given.size not in (1, score.mix.shape[1]) or given.ndim > 2:
        raise NotReadable(f"{where}: expected one constant for all rows")
    value = given.astype(np.float64).ravel()
    operator = node.op_type
    if (operator in ("Mul", "Div") and (value == 1).all() and (first or operator == "Mul")) or (
        operator in ("Add", "Sub") and (value == 0).all() and (first or operator == "Add")
    ):
        return score
    if score.link == "logit" and operator == "Sub" and not first and (value == 1).all():
        return replace(score, mix=-score.mix, offset=-score.offset)
    if score.link != "identity" or (operator == "Div" and not first):
        raise NotReadable(f"{where}: arithmetic after the link {score.link} is not supported")
    match operator, first:
        case "Mul", _:
            return replace(score, mix=score.mix * value, offset=score.offset * value)
        case "Div", _:
            return replace(score, mix=score.mix / value, offset=score.offset / value)
        case "Add", _:
            return replace(score, offset=score.offset + value)
        case "Sub", True:
            return replace(score, offset=score.offset - value)
    return replace(score, mix=-score.mix, offset=value - score.offset)


def _concat(node: Any, scores: Scores, constants: Constants) -> Score:
    """Columns of the same scores through the same link, side by side."""
    where = described(node)
    parts = [score for score in scores if score is not None]
    first = parts[0]
    if len(parts) != len(scores) or Attributes(node).get("axis", 1) not in (1, -1):
        raise NotReadable(f"{where}: expected columns of scores side by side")
    if any(part.model is not first.model or part.link != first.link for part in parts) or (
        first.link == "softmax" and len(parts) > 1
    ):
        raise NotReadable(f"{where}: its inputs are scores of several models, or through several links")
    return replace(
        first,
        mix=np.concatenate([part.mix for part in parts], axis=1),
        offset=np.concatenate([part.offset for part in parts]),
    )


def _reshape(node: Any, scores: Scores, constants: Constants) -> Score:
    score = _only(node, scores)
    shape = constants[1] if len(constants) > 1 else None
    target = [] if shape is None else [int(size) for size in shape.ravel()]
    columns = score.mix.shape[1]
    if target not in ([-1, columns], [0, columns], [0, -1]) and not (target == [-1] and columns == 1):
        raise NotReadable(f"{described(node)}: expected a constant shape that keeps rows of {columns}, got {target}")
    return score


def _only(node: Any, scores: Scores) -> Score:
    given = [score for score in scores if score is not None]
    if len(given) != 1:
        raise NotReadable(f"{described(node)}: it mixes scores: expected one input with scores, got {len(given)}")
    return given[0]


def _first_link(node: Any, score: Score) -> Score:
    if score.link != "identity":
        raise NotReadable(f"{described(node)}: a second link after {score.link} is not supported")
    return score


AFTERMATH: dict[str, Callable[[Any, Scores, Constants], Score]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    "Cast": _cast,
    "Concat": _concat,
    "Flatten": _identity,
    "Identity": _identity,
    "Normalizer": _normalizer,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "ZipMap": _identity,
}
