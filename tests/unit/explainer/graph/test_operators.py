"""What is before and after the model, as ONNX Runtime computes it."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from services.explainer.graph import Column, ModelGraph
from services.explainer.tree import tree_values
from tests.unit.explainer.tree.random_trees import Leaf, Split, draw_tree, model, regressor

FLOAT, STRING, INT = TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64
ML = "ai.onnx.ml"


def texts(*rows: list[str]) -> Any:
    return np.array(rows, object)


def as_tensor(array: Any) -> Any:
    """As the mesh reads it: texts are bytes."""
    if array.dtype != object:
        return array
    held = np.empty(array.shape, object)
    held.ravel()[:] = [text.encode() for text in array.ravel()]
    return held


NUMBERS = np.array([[0.5, np.nan, -3.0], [1e20, 0.0, 2.25], [-7.5, 3.0, 1.0]], np.float32)
WORDS = texts(["red", "de"], ["blue", "fr"], ["pink", "fr"])

make = helper.make_node
CONSTANTS = {
    "row": np.array([[2.0, -1.5, 0.25]], np.float32),
    "one": np.array(3.0, np.float32),
    "wide": np.array([-1, 3], np.int64),
    "flat": np.array([-1, 4], np.int64),
    "zeroed": np.array([0, -1], np.int64),
    "picked": np.array([2, 0, 2], np.int64),
    "column": np.array([1], np.int64),
    "low": np.array(-1.0, np.float32),
    "high": np.array(2.0, np.float32),
}
CASES: dict[str, tuple[list[Any], list[tuple[str, int]]]] = {
    "identity": ([make("Identity", ["n"], ["t"])], [("n", 0), ("n", 1), ("n", 2)]),
    "scaler": (
        [make("Scaler", ["n"], ["t"], domain=ML, offset=[0.1, 0.2, 0.3], scale=[3.0, 1.5, 0.7])],
        [("n", 0), ("n", 1), ("n", 2)],
    ),
    "imputer": (
        [
            make(
                "Imputer",
                ["n"],
                ["t"],
                domain=ML,
                imputed_value_floats=[1.0, 2.0, 3.0],
                replaced_value_float=float("nan"),
            )
        ],
        [("n", 0), ("n", 1), ("n", 2)],
    ),
    "constants on either side": (
        [
            make("Mul", ["n", "row"], ["a"]),
            make("Sub", ["one", "a"], ["b"]),
            make("Div", ["b", "row"], ["c"]),
            make("Add", ["c", "one"], ["t"]),
        ],
        [("n", 0), ("n", 1), ("n", 2)],
    ),
    "clip": ([make("Clip", ["n", "low", "high"], ["t"])], [("n", 0), ("n", 1), ("n", 2)]),
    "columns picked": ([make("Gather", ["n", "picked"], ["t"], axis=1)], [("n", 2), ("n", 0), ("n", 2)]),
    "columns extracted": (
        [make("ArrayFeatureExtractor", ["n", "picked"], ["t"], domain=ML)],
        [("n", 2), ("n", 0), ("n", 2)],
    ),
    "side by side": (
        [make("Gather", ["n", "column"], ["a"], axis=1), make("Concat", ["a", "n"], ["t"], axis=-1)],
        [("n", 1), ("n", 0), ("n", 1), ("n", 2)],
    ),
    "moved up and down": (
        [
            make("Unsqueeze", ["n", "column"], ["a"]),
            make("Squeeze", ["a", "column"], ["b"]),
            make("Reshape", ["b", "zeroed"], ["c"]),
            make("Flatten", ["c"], ["t"]),
        ],
        [("n", 0), ("n", 1), ("n", 2)],
    ),
    "cast there and back": (
        [
            make("Cast", ["i"], ["a"], to=FLOAT),
            make("Cast", ["a"], ["b"], to=TensorProto.INT32),
            make("Cast", ["b"], ["t"], to=FLOAT),
        ],
        [("i", 0)],
    ),
    "one-hot of texts": (
        [
            make("OneHotEncoder", ["w"], ["a"], domain=ML, cats_strings=["blue", "de", "red"]),
            make("Reshape", ["a", "six"], ["t"]),
        ],
        [("w", 0)] * 3 + [("w", 1)] * 3,
    ),
    "one-hot of integers": (
        [
            make("OneHotEncoder", ["i"], ["a"], domain=ML, cats_int64s=[7, 2, -1]),
            make("Reshape", ["a", "wide"], ["t"]),
        ],
        [("i", 0)] * 3,
    ),
    "places of texts": (
        [
            make(
                "LabelEncoder",
                ["w"],
                ["t"],
                domain=ML,
                keys_strings=["de", "red"],
                values_floats=[1.5, 2.5],
                default_float=-9.0,
            )
        ],
        [("w", 0), ("w", 1)],
    ),
    "places of numbers": (
        [
            make(
                "LabelEncoder",
                ["n"],
                ["t"],
                domain=ML,
                keys_floats=[-3.0, 1.0, 0.5],
                values_floats=[5.0, 6.0, 7.0],
                default_float=0.25,
            )
        ],
        [("n", 0), ("n", 1), ("n", 2)],
    ),
    "features side by side": (
        [make("FeatureVectorizer", ["n", "n"], ["t"], domain=ML, inputdimensions=[3, 3])],
        [("n", 0), ("n", 1), ("n", 2)] * 2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_columns_are_what_the_runtime_computes_and_come_from_where_they_do(case: str) -> None:
    nodes, sources = CASES[case]
    width = len(sources)
    inputs = {"n": (FLOAT, 3), "w": (STRING, 2), "i": (INT, 1)}
    rows = {"n": NUMBERS, "w": WORDS, "i": np.array([[2], [7], [5]], np.int64)}
    used = {name: rows[name] for name in inputs if any(name in node.input for node in nodes)}
    trees = make("LinearRegressor", ["t"], ["y"], domain=ML, coefficients=np.eye(width).ravel().tolist(), targets=width)
    constants = {**CONSTANTS, "six": np.array([-1, 6], np.int64)}
    content = model(
        [*nodes, trees],
        {name: inputs[name] for name in used},
        {"y": (FLOAT, width), "t": (FLOAT, width)},
        {name: value for name, value in constants.items() if any(name in node.input for node in nodes)},
    )
    (expected,) = onnxruntime.InferenceSession(content).run(["t"], used)

    graph = ModelGraph.read(content)
    matrix = graph.matrix({name: as_tensor(array) for name, array in used.items()})

    assert graph.columns == tuple(Column(*source) for source in sources)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, expected)


def _with(after: list[Any], targets: int, constants: dict[str, Any], columns: int) -> bytes:
    """Trees whose scores are `s`, and what comes behind them up to `y`."""
    random = np.random.default_rng(11)
    trees = [draw_tree(random, 3, 3, targets, ("BRANCH_LEQ",)) for _ in range(2)]
    node = onnx.ModelProto.FromString(regressor(trees, 3, targets)).graph.node[0]
    node.output[0] = "s"
    return model([node, *after], {"x": (FLOAT, 3)}, {"y": (FLOAT, columns)}, constants)


AFTER: dict[str, tuple[list[Any], int, dict[str, Any], str, int]] = {
    "sigmoid": ([make("Sigmoid", ["s"], ["y"])], 1, {}, "logit", 1),
    "softmax": ([make("Softmax", ["s"], ["y"], axis=1)], 3, {}, "softmax", 3),
    "both classes": (
        [
            make("Sigmoid", ["s"], ["p"]),
            make("Sub", ["one", "p"], ["q"]),
            make("Concat", ["q", "p"], ["y"], axis=1),
        ],
        1,
        {"one": np.array([1.0], np.float32)},
        "logit",
        2,
    ),
    "an average": (
        [make("Div", ["s", "four"], ["a"]), make("Sub", ["a", "four"], ["b"]), make("Identity", ["b"], ["y"])],
        2,
        {"four": np.array([4.0], np.float32)},
        "identity",
        2,
    ),
    "less than a constant": (
        [make("Sub", ["c", "s"], ["a"]), make("Mul", ["a", "c"], ["b"]), make("Add", ["c", "b"], ["y"])],
        2,
        {"c": np.array([[4.0, -0.5]], np.float32)},
        "identity",
        2,
    ),
    "shares normalised": (
        [make("Softmax", ["s"], ["p"], axis=-1), make("Normalizer", ["p"], ["y"], domain=ML, norm="L1")],
        3,
        {},
        "softmax",
        3,
    ),
    "times one": (
        [make("Sigmoid", ["s"], ["p"]), make("Mul", ["p", "one"], ["y"])],
        2,
        {"one": np.array(1.0, np.float32)},
        "logit",
        2,
    ),
    "reshaped": (
        [make("Reshape", ["s", "shape"], ["y"])],
        2,
        {"shape": np.array([-1, 2], np.int64)},
        "identity",
        2,
    ),
}


@pytest.mark.parametrize("case", AFTER)
def test_what_follows_the_trees_is_in_the_margin_or_in_the_link(case: str) -> None:
    after, targets, constants, link, columns = AFTER[case]
    content = _with(after, targets, constants, columns)
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(content).run(["y"], {"x": rows})

    graph = ModelGraph.read(content)
    explained = tree_values(graph, {"x": rows}, {"x": rows[:5]}, np.full(5, 0.2), {"x": np.arange(3)})

    assert graph.link == link
    np.testing.assert_allclose(explained.probability, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        explained.base + explained.attributions.sum(axis=1), explained.margin, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE"])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_aggregates_base_values_and_transforms_of_a_regressor_are_the_runtimes(aggregate: str, transform: str) -> None:
    random = np.random.default_rng(5)
    trees = [draw_tree(random, 3, 4, 2, ("BRANCH_LEQ",)) for _ in range(3)]
    content = regressor(trees, 3, 2, base_values=[0.5, -0.25], aggregate=aggregate, post_transform=transform)
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(content).run(["y"], {"x": rows})

    explained = tree_values(
        ModelGraph.read(content), {"x": rows}, {"x": rows[:5]}, np.full(5, 0.2), {"x": np.arange(3)}
    )

    np.testing.assert_allclose(explained.probability, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lone", [False, True], ids=["of splits", "with a tree of one leaf"])
def test_an_ensemble_of_opset_5_is_read(lone: bool) -> None:
    """Inner nodes and leaves are numbered apart; a tree that is one leaf is a node with that leaf on both sides."""
    splits = [(0, 0.5, 0, 1), (1, -0.25, 2, 3)] + [(2, 0.0, 4, 4)] * lone
    tensor = helper.make_tensor
    node = make(
        "TreeEnsemble",
        ["x"],
        ["y"],
        domain=ML,
        n_targets=1,
        aggregate_function=1,
        post_transform=0,
        tree_roots=list(range(len(splits))),
        nodes_featureids=[split[0] for split in splits],
        nodes_splits=tensor("s", FLOAT, [len(splits)], [split[1] for split in splits]),
        nodes_modes=tensor("m", TensorProto.UINT8, [len(splits)], [0, 3, 0][: len(splits)]),
        nodes_truenodeids=[split[2] for split in splits],
        nodes_trueleafs=[1] * len(splits),
        nodes_falsenodeids=[split[3] for split in splits],
        nodes_falseleafs=[1] * len(splits),
        leaf_targetids=[0] * (4 + lone),
        leaf_weights=tensor("w", FLOAT, [4 + lone], [1.0, 2.0, 4.0, 8.0, 16.0][: 4 + lone]),
    )
    content = model([node], {"x": (FLOAT, 3)}, {"y": (FLOAT, 1)}, ml=5)
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(content).run(["y"], {"x": rows})

    explained = tree_values(
        ModelGraph.read(content), {"x": rows}, {"x": rows[:5]}, np.full(5, 0.2), {"x": np.arange(3)}
    )

    np.testing.assert_allclose(explained.probability, expected, rtol=0, atol=1e-6)


def test_a_value_on_a_threshold_goes_the_way_it_goes_in_fp32() -> None:
    """0.1 in FP32 is more than 0.1 in FP64: compared in FP64 the row would go the other way."""
    tree = Split(0, "BRANCH_LEQ", 0.1, False, Leaf([1.0]), Leaf([2.0]))
    rows = np.array([[0.1]], np.float32)

    explained = tree_values(
        ModelGraph.read(regressor([tree], 1)), {"x": rows}, {"x": rows}, np.ones(1), {"x": np.zeros(1, int)}
    )

    assert explained.margin.tolist() == [[1.0]]
