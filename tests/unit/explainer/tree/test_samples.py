"""The samples: texts that are one-hot columns, several inputs, and what ONNX Runtime answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from services.explainer.coalitions import all_subsets, shapley_weights
from services.explainer.graph import ModelGraph
from services.explainer.tree import TreeAnswer, TreeValues, linear_values, tree_values

SAMPLES = Path(__file__).parents[4] / "samples"
FRAUD = SAMPLES / "models" / "fraud-detector"
Inputs = dict[str, Any]


def _background() -> Inputs:
    listed = json.loads((SAMPLES / "backgrounds" / "fraud-detector.json").read_text(encoding="utf-8"))["inputs"]
    arrays = {}
    for tensor in listed:
        texts = tensor["datatype"] == "BYTES"
        values = [value.encode() for value in tensor["data"]] if texts else tensor["data"]
        arrays[tensor["name"]] = np.array(values, object if texts else np.float32).reshape(tensor["shape"])
    return arrays


ALL = _background()
WIDTH = sum(array.shape[1] for array in ALL.values())


def rows(chosen: slice) -> Inputs:
    return {name: array[chosen] for name, array in ALL.items()}


def players(*, grouped: bool = False) -> Inputs:
    """Each column one, or the features of a card all one."""
    found, first = {}, 0
    for name, array in ALL.items():
        one = grouped and name == "card_features"
        found[name] = np.full(array.shape[1], first) if one else np.arange(first, first + array.shape[1])
        first += 1 if one else array.shape[1]
    return found


def read(version: str) -> ModelGraph:
    return ModelGraph.read((FRAUD / version / "model.onnx").read_bytes())


def explain(version: str, *, grouped: bool = False) -> TreeAnswer:
    values = tree_values if version != "1" else linear_values
    return values(read(version), rows(slice(0, 2)), rows(slice(10, 14)), WEIGHTS, players(grouped=grouped))


WEIGHTS = np.array([0.1, 0.2, 0.3, 0.4])


def every_coalition(version: str, *, grouped: bool) -> Any:
    """The definition: the margin of all rows that are put together, columns of texts and numbers as the inputs have them."""
    graph, of_column = read(version), players(grouped=grouped)
    count = 1 + max(int(of.max()) for of in of_column.values())
    masks, weights, background = all_subsets(count), shapley_weights(count), rows(slice(10, 14))
    found = []
    for row in range(2):
        value = 0.0
        for each, weight in enumerate(WEIGHTS):
            mixed = {
                name: np.where(masks[:, of_column[name]], array[row], background[name][each])
                for name, array in ALL.items()
            }
            value = value + weight * margin(graph, mixed)
        found.append(weights @ value)
    return np.array(found)


def margin(graph: ModelGraph, inputs: Inputs) -> Any:
    """From a tree's leaves, or weights, one at a time."""
    matrix = graph.matrix(inputs)
    if graph.kind == "linear":
        score = matrix.astype(np.float64) @ graph.model.coefficients + graph.model.intercept
        return score @ graph.mix + graph.offset
    trees = graph.model
    here = np.tile(np.arange(trees.trees), (len(matrix), 1))
    for _ in range(3):
        true = matrix[np.arange(len(matrix))[:, None], trees.feature[here]] <= trees.threshold[here]
        here = np.where(true, trees.true[here], trees.false[here])
    return (trees.values[here].sum(axis=1) + trees.base) @ graph.mix + graph.offset


@pytest.mark.parametrize("grouped", [False, True], ids=["columns", "a card as one"])
@pytest.mark.parametrize("version", ["1", "2"])
def test_values_are_those_of_every_coalition(version: str, grouped: bool) -> None:
    """A merchant's category is one player, whatever number of columns the trees have for it."""
    explained = explain(version, grouped=grouped)

    np.testing.assert_allclose(explained.attributions, every_coalition(version, grouped=grouped), rtol=0, atol=1e-12)


@pytest.mark.parametrize("version", ["1", "2", "3"])
def test_the_margin_is_what_the_runtime_answers(version: str) -> None:
    session = onnxruntime.InferenceSession(FRAUD / version / "model.onnx")
    feed = {
        name: np.array([text.decode() for text in array.ravel()], object).reshape(array.shape)
        if array.dtype == object
        else array
        for name, array in ALL.items()
    }
    (answered,) = session.run(["probabilities"], feed)
    values = tree_values if version != "1" else linear_values

    explained = values(read(version), ALL, rows(slice(0, 4)), WEIGHTS, players())

    np.testing.assert_allclose(explained.probability, answered, rtol=0, atol=1e-5)
    error = np.abs(explained.base + explained.attributions.sum(axis=1) - explained.margin)
    assert (error <= 1e-9 * np.maximum(1, np.abs(explained.attributions).sum(axis=1))).all()


@pytest.mark.parametrize("algorithm", ["interventional", "path_dependent"])
def test_a_row_gets_the_same_alone_and_among_others(algorithm: Any) -> None:
    prepared = TreeValues(read("2"), rows(slice(0, 4)), WEIGHTS, players(), algorithm=algorithm)

    together = prepared.of(ALL)
    alone = prepared.of(rows(slice(7, 8)))

    np.testing.assert_allclose(alone.attributions[0], together.attributions[7], rtol=0, atol=1e-13)
    np.testing.assert_array_equal(alone.margin[0], together.margin[7])


def test_no_rows_have_no_attributions() -> None:
    explained = tree_values(read("2"), rows(slice(0, 0)), rows(slice(0, 4)), WEIGHTS, players())

    assert explained.attributions.shape == (0, WIDTH, 2)
    assert explained.probability.shape == (0, 2)


class Ended(Exception):
    pass


@pytest.mark.parametrize("algorithm", ["interventional", "path_dependent"])
def test_work_ends_between_two_pieces(algorithm: Any) -> None:
    """Of the pieces that the whole work has, none is done after the one that ends it."""
    many = {name: np.repeat(array, 40, axis=0) for name, array in ALL.items()}
    prepared = TreeValues(read("2"), rows(slice(0, 4)), WEIGHTS, players(), algorithm=algorithm)
    pieces = 0

    def count() -> None:
        nonlocal pieces
        pieces += 1

    prepared.of(many, count)
    whole, pieces = pieces, 0

    def end() -> None:
        count()
        if pieces == 3:
            raise Ended

    with pytest.raises(Ended):
        prepared.of(many, end)

    assert whole > 10
    assert pieces == 3


def test_covers_of_the_file_are_used_and_given_ones_go_first() -> None:
    graph = read("2")
    background, many = rows(slice(0, 4)), rows(slice(0, 20))
    held = np.empty(len(graph.model.order))
    held[graph.model.order] = graph.model.cover

    of_file = tree_values(graph, many, background, WEIGHTS, players(), algorithm="path_dependent")
    same = tree_values(graph, many, background, WEIGHTS, players(), algorithm="path_dependent", covers=held)
    other = tree_values(graph, many, background, WEIGHTS, players(), algorithm="path_dependent", covers=held**0.5)

    assert (of_file.covers, same.covers) == ("graph", "given")
    np.testing.assert_array_equal(of_file.attributions, same.attributions)
    assert np.abs(other.attributions - same.attributions).max() > 0.01
