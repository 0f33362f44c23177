"""Random ensembles as nested tuples, as ONNX models, and as games that are worked out coalition by coalition."""

from dataclasses import dataclass
from itertools import product
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

Array = NDArray[Any]
Floats = NDArray[np.float64]

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
PASSES = {
    "BRANCH_LEQ": lambda x, t: x <= t,
    "BRANCH_LT": lambda x, t: x < t,
    "BRANCH_GTE": lambda x, t: x >= t,
    "BRANCH_GT": lambda x, t: x > t,
    "BRANCH_EQ": lambda x, t: x == t,
    "BRANCH_NEQ": lambda x, t: x != t,
}


@dataclass
class Leaf:
    values: list[float]


@dataclass
class Split:
    feature: int
    mode: str
    threshold: float
    missing_true: bool
    true: Any
    false: Any


def draw_tree(random: np.random.Generator, features: int, depth: int, targets: int, modes: tuple[str, ...]) -> Any:
    """Thresholds are few, so that features come again on a path, values meet thresholds and branches that nobody takes occur."""
    if depth == 0 or random.random() < 0.15:
        return Leaf([float(np.float32(value)) for value in random.normal(size=targets)])
    return Split(
        int(random.integers(features)),
        str(random.choice(modes)),
        float(random.integers(-1, 3)) / 2,
        bool(random.random() < 0.5),
        draw_tree(random, features, depth - 1, targets, modes),
        draw_tree(random, features, depth - 1, targets, modes),
    )


def draw_rows(random: np.random.Generator, rows: int, features: int, missing: float = 0.1) -> Array:
    values = (random.integers(-2, 5, (rows, features)) / 2).astype(np.float32)
    values[random.random(values.shape) < missing] = np.nan
    return values


def answer(tree: Any, row: Array) -> Floats:
    """What a tree says of a row, node by node."""
    while isinstance(tree, Split):
        tree = tree.true if _goes_true(tree, row) else tree.false
    return np.array(tree.values)


def _goes_true(split: Split, row: Array) -> bool:
    value = row[split.feature]
    return bool(PASSES[split.mode](value, np.float32(split.threshold)) or (split.missing_true and np.isnan(value)))


def covers(tree: Any, rows: Array, weights: Floats) -> list[float]:
    """Of each node, parents first: the weight of the rows that come there."""
    listed = [float(weights.sum())]
    if isinstance(tree, Split):
        true = np.array([_goes_true(tree, row) for row in rows], bool)
        listed += covers(tree.true, rows[true], weights[true]) + covers(tree.false, rows[~true], weights[~true])
    return listed


def interventional(trees: list[Any], row: Array, background: Array, weights: Floats, of_column: Array) -> Any:
    """v(S): the mean answer with the columns of the players in S from the row and the others from the background."""

    def value(coalition: set[int]) -> Floats:
        known = np.isin(of_column, list(coalition))
        mixed = np.where(known, row, background)
        return np.sum(
            [w * sum(answer(tree, each) for tree in trees) for w, each in zip(weights, mixed, strict=True)], 0
        )

    return value


def path_dependent(trees: list[Any], row: Array, cover: list[list[float]], of_column: Array) -> Any:
    """v(S): Lundberg et al. 2020, algorithm 1: where the split is on nobody in S, both ways, as the covers say."""

    def value(coalition: set[int]) -> Floats:
        return sum(
            _expected(tree, row, iter(listed), coalition, of_column)[0]
            for tree, listed in zip(trees, cover, strict=True)
        )

    return value


def _expected(tree: Any, row: Array, cover: Any, coalition: set[int], of_column: Array) -> tuple[Floats, float]:
    own = next(cover)
    if isinstance(tree, Leaf):
        return np.array(tree.values), own
    (true, true_cover), (false, false_cover) = (
        _expected(side, row, cover, coalition, of_column) for side in (tree.true, tree.false)
    )
    if of_column[tree.feature] in coalition:
        return (true if _goes_true(tree, row) else false), own
    share = true_cover / (true_cover + false_cover) if true_cover + false_cover else 0.5
    return share * true + (1 - share) * false, own


def shapley(value: Any, players: int) -> Floats:
    """[players, targets], from the definition: every coalition, every player."""
    worth = {
        coalition: value({player for player in range(players) if coalition[player]})
        for coalition in product((False, True), repeat=players)
    }
    total = np.zeros((players, len(worth[(False,) * players])))
    for coalition, without in worth.items():
        size = sum(coalition)
        for player in range(players):
            if not coalition[player]:
                with_it = worth[(*coalition[:player], True, *coalition[player + 1 :])]
                total[player] += (
                    factorial(size) * factorial(players - size - 1) / factorial(players) * (with_it - without)
                )
    return total


def regressor(
    trees: list[Any],
    features: int,
    targets: int = 1,
    *,
    hitrates: list[float] | None = None,
    base_values: list[float] | None = None,
    aggregate: str = "SUM",
    post_transform: str = "NONE",
) -> bytes:
    """A model of one TreeEnsembleRegressor, nodes parents first."""
    nodes: dict[str, list[Any]] = {
        name: [] for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    } | {"missing_value_tracks_true": []}
    leaves: dict[str, list[Any]] = {"treeids": [], "nodeids": [], "ids": [], "weights": []}

    def write(tree: Any, number: int, at: int) -> int:
        place = len(nodes["modes"])
        split = isinstance(tree, Split)
        row = (number, at, tree.feature, tree.threshold, tree.mode) if split else (number, at, 0, 0.0, "LEAF")
        for name, value in zip(("treeids", "nodeids", "featureids", "values", "modes"), row, strict=True):
            nodes[name].append(value)
        nodes["missing_value_tracks_true"].append(int(split and tree.missing_true))
        nodes["truenodeids"].append(at + 1 if split else 0)
        nodes["falsenodeids"].append(0)
        if not split:
            for target, value in enumerate(tree.values):
                for name, part in zip(
                    ("treeids", "nodeids", "ids", "weights"), (number, at, target, value), strict=True
                ):
                    leaves[name].append(part)
            return at + 1
        after = write(tree.true, number, at + 1)
        nodes["falsenodeids"][place] = after
        return write(tree.false, number, after)

    for number, tree in enumerate(trees):
        write(tree, number, 0)
    attributes = {f"nodes_{name}": values for name, values in nodes.items()}
    attributes |= {f"target_{name}": values for name, values in leaves.items()}
    if hitrates is not None:
        attributes["nodes_hitrates"] = hitrates
    if base_values is not None:
        attributes["base_values"] = base_values
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=targets,
        aggregate_function=aggregate,
        post_transform=post_transform,
        **attributes,
    )
    return model([node], {"x": (TensorProto.FLOAT, features)}, {"y": (TensorProto.FLOAT, targets)})


def model(
    nodes: list[Any],
    inputs: dict[str, tuple[int, int]],
    outputs: dict[str, tuple[int, int]],
    constants: dict[str, Array] | None = None,
    ml: int = 3,
) -> bytes:
    """A model of these nodes; inputs and outputs are datatype and columns."""
    values = [
        [helper.make_tensor_value_info(name, datatype, ["rows", width]) for name, (datatype, width) in of.items()]
        for of in (inputs, outputs)
    ]
    held = [
        helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel())
        for name, array in (constants or {}).items()
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "test", *values, held),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", ml)],
        ir_version=8 if ml < 5 else 10,
    )
    return bytes(proto.SerializeToString())
