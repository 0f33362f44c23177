"""Attributions of a linear model in closed form."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array
from services.explainer.estimate import Floats
from services.explainer.graph import ModelGraph, NotReadable
from services.explainer.graph.score import Weights
from services.explainer.tree.answer import TreeAnswer, check_size

__all__ = ["linear_values"]


def linear_values(
    graph: ModelGraph,
    inputs: Mapping[str, Array],
    background: Mapping[str, Array],
    weights: Floats,
    players: Mapping[str, NDArray[np.intp]],
) -> TreeAnswer:
    """Exact Shapley values of a graph of kind "linear": w · (x - E[x]), the columns of one player added up.

    What else is said of `tree_values` holds here too. A NaN among the inputs makes the margin NaN, as it does the model's answer.
    """
    if not isinstance(graph.model, Weights):
        raise NotReadable("the model is no linear one")
    coefficients = graph.model.coefficients @ graph.mix  # [columns, outputs]
    intercept = graph.model.intercept @ graph.mix + graph.offset
    rows, unknown = (graph.matrix(each).astype(np.float64) for each in (inputs, background))
    mean = weights @ unknown
    count = 1 + max((int(of.max()) for of in players.values() if of.size), default=-1)
    check_size(len(rows), count, graph.width)
    attributions = np.zeros((len(rows), count, graph.width))
    for column, player in enumerate(graph.players(players)):
        attributions[:, player] += (rows[:, column] - mean[column])[:, None] * coefficients[column]
    margin = rows @ coefficients + intercept
    return TreeAnswer(attributions, mean @ coefficients + intercept, margin, graph.probability(margin))
