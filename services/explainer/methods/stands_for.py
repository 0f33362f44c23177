"""Whether a model's file is what answers: the graph's answers beside those of the model that is served."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from services.explainer.background import Background
from services.explainer.estimate import Floats
from services.explainer.graph import ModelGraph
from services.explainer.graph.trees import Trees
from services.explainer.tree import TreeAnswer
from services.explainer.tree.decide import scores

__all__ = ["background_outputs", "how_apart", "tells_of_margin"]

AGREES = 1e-5  # how far the graph's answer may be from the model's, which computes in FP32
AGREES_IN_SMALL = 1e-3  # of what is small: of p or 1 - p, or of all amounts that an answer is the sum of
ROUNDED = 2.0**-22  # of 1: ONNX Runtime's smaller one of p and 1 - p is 1 less the other one, in FP32
OFTEN_ROUNDED = 2.0**-19  # of a constant that many small amounts are added to, one by one
TELLS = 1e-6  # a p that is farther from 0 and 1 is not rounding alone
PIECE_STEPS = 2**17  # rows × trees that are followed at a time


def background_outputs(graph: ModelGraph, background: Background, between: Callable[[], None]) -> Floats:
    """What the graph answers to the background rows, [backgrounds, columns]. Raises NotReadable, and what `between` raises."""
    matrix = graph.matrix(background.arrays)
    if not isinstance(graph.model, Trees):
        scored = matrix.astype(np.float64) @ graph.model.coefficients + graph.model.intercept
        return graph.probability(scored @ graph.mix + graph.offset)
    margin = np.empty((len(matrix), graph.width))
    step = max(1, PIECE_STEPS // graph.model.trees)
    for at in range(0, len(matrix), step):
        between()
        margin[at : at + step] = scores(graph.model, matrix[at : at + step]) @ graph.mix + graph.offset
    return graph.probability(margin)


def how_apart(
    graph: ModelGraph, answer: TreeAnswer, outputs: Floats, weights: Floats, base: Floats, predictions: Floats
) -> str:
    """How the graph's answers are other than the model's; empty: they are the same.

    They are compared for each row, and in the mean over the background: `outputs` are the graph's answers to it, `base` is the
    mean of the model's. Rows alone may be few, and alike by chance. NaN is like nothing.
    """
    mean, size = weights @ outputs, weights @ np.abs(outputs)
    if np.isnan(answer.probability).any() or np.isnan(mean).any():
        return "it answers NaN where the model answers a number"
    amounts = np.abs(answer.attributions).sum(axis=1) + np.abs(answer.base)
    all_amounts = amounts.max(axis=0, initial=0.0)
    for whose, found, given, bound in (
        ("it answers", answer.probability, predictions, _bound(graph, predictions, np.abs(predictions), amounts)),
        ("its mean over the background is", mean, base, _bound(graph, base, size, np.maximum(size, all_amounts))),
    ):
        apart = np.abs(found - given)
        if not (apart <= bound).all():
            return f"{whose} up to {float(apart.max()):.3g} apart from the model's"
    return ""


def tells_of_margin(graph: ModelGraph, base: Floats, predictions: Floats) -> bool:
    """Whether answers say something of the margin: a p that FP32 rounds to 0 or 1 is that of very many margins."""
    if graph.link == "identity":
        return True
    return any(bool((np.minimum(p, 1 - p) > TELLS).any()) for p in (base, predictions))


def _bound(graph: ModelGraph, given: Floats, size: Floats, amounts: Floats) -> Floats:
    """How far the graph's answer may be from the one that is `given`, of that `size`, a sum of these `amounts`."""
    if graph.link == "identity":
        model = graph.model
        constant = np.abs(model.base if isinstance(model, Trees) else model.intercept) @ np.abs(graph.mix)
        small = np.maximum(AGREES * size, AGREES_IN_SMALL * amounts) + OFTEN_ROUNDED * (constant + np.abs(graph.offset))
        return np.minimum(AGREES * np.maximum(1.0, size), small)
    return np.minimum(AGREES, ROUNDED + AGREES_IN_SMALL * given * (1 - given))
