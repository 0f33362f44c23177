"""TreeSHAP for the rows of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array
from services.explainer.estimate import Floats
from services.explainer.graph import ModelGraph, NotReadable
from services.explainer.graph.trees import Trees
from services.explainer.tree.answer import Algorithm, TreeAnswer, check_size
from services.explainer.tree.decide import scores
from services.explainer.tree.shapley import TreeShapley

__all__ = ["TreeValues", "tree_values"]

PIECE_STEPS = 2**17  # rows × trees that are followed at a time

Between = Callable[[], None]


class TreeValues:
    """A graph of kind "tree", a background and players, prepared for any rows. Threads may share it.

    The background's weights add up to 1. Path-dependent covers are those `given` (by node, in the order of the file), else those
    of the graph where it has some, else counted by running the background through the trees.
    """

    def __init__(
        self,
        graph: ModelGraph,
        background: Mapping[str, Array],
        weights: Floats,
        players: Mapping[str, NDArray[np.intp]],
        *,
        algorithm: Algorithm = "interventional",
        covers: Floats | None = None,
        between: Between = lambda: None,
    ) -> None:
        if not isinstance(graph.model, Trees):
            raise NotReadable("the model is no ensemble of trees")
        self._graph = graph
        self._trees = graph.model
        self._is_plain = np.array_equal(graph.mix, np.eye(*graph.mix.shape))
        count = 1 + max((int(of.max()) for of in players.values() if of.size), default=-1)
        self._shapley = TreeShapley(
            graph.model,
            graph.players(players),
            count,
            graph.matrix(background),
            weights,
            algorithm,
            covers,
            between,
        )

    @property
    def longest_path(self) -> int:
        """The most players on one path: what the work grows with."""
        return self._shapley.longest_path

    def of(self, inputs: Mapping[str, Array], between: Between = lambda: None) -> TreeAnswer:
        """The answer for the rows of a request."""
        graph = self._graph
        matrix = graph.matrix(inputs)
        check_size(len(matrix), self._shapley.players, max(graph.mix.shape))
        attributions = self._shapley.values(matrix, between)
        if not self._is_plain:
            attributions = attributions @ graph.mix
        margin = np.empty((len(matrix), graph.width))
        step = max(1, PIECE_STEPS // self._trees.trees)
        for at in range(0, len(matrix), step):
            between()
            margin[at : at + step] = scores(self._trees, matrix[at : at + step]) @ graph.mix + graph.offset
        base = self._shapley.base @ graph.mix + graph.offset
        return TreeAnswer(attributions, base, margin, graph.probability(margin), self._shapley.covers)


def tree_values(
    graph: ModelGraph,
    inputs: Mapping[str, Array],
    background: Mapping[str, Array],
    weights: Floats,
    players: Mapping[str, NDArray[np.intp]],
    *,
    algorithm: Algorithm = "interventional",
    covers: Floats | None = None,
    between: Between = lambda: None,
) -> TreeAnswer:
    """Exact Shapley values of a graph of kind "tree", as `TreeValues` has them.

    Raises NotReadable for another graph, players that are not of its inputs, inputs that the model itself refuses, covers that do
    not fit, and paths with more than 62 players.
    """
    prepared = TreeValues(graph, background, weights, players, algorithm=algorithm, covers=covers, between=between)
    return prepared.of(inputs, between)
