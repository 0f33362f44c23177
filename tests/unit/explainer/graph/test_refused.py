"""What can't be read is refused with the node and the reason, and nothing hangs."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from services.explainer.graph import ModelGraph, NotReadable
from services.explainer.tree import TreeValues, linear_values, tree_values
from tests.unit.explainer.tree.random_trees import Leaf, Split, draw_tree, model, regressor

FLOAT = TensorProto.FLOAT
ML = "ai.onnx.ml"
make = helper.make_node

TREE = Split(
    0, "BRANCH_LEQ", 0.0, False, Leaf([1.0, 2.0]), Split(1, "BRANCH_LT", 1.0, True, Leaf([2.0, 0]), Leaf([3.0, 1]))
)


def changed(**attributes: Any) -> bytes:
    """A model whose trees have other attributes."""
    proto = onnx.ModelProto.FromString(regressor([TREE], 2, 2))
    node = proto.graph.node[0]
    kept = [each for each in node.attribute if each.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return bytes(proto.SerializeToString())


def between(*nodes: Any, constants: dict[str, Any] | None = None, width: int = 2, kind: int = FLOAT) -> bytes:
    """A model with these nodes from `x` to `t`, what the trees see."""
    trees = onnx.ModelProto.FromString(regressor([TREE], 2, 2)).graph.node[0]
    trees.input[0] = "t"
    return model([*nodes, trees], {"x": (kind, width)}, {"y": (FLOAT, 2)}, constants)


def behind(*nodes: Any, constants: dict[str, Any] | None = None) -> bytes:
    """A model with these nodes from `s`, the scores, to `y`."""
    trees = onnx.ModelProto.FromString(regressor([TREE], 2, 2)).graph.node[0]
    trees.output[0] = "s"
    return model([trees, *nodes], {"x": (FLOAT, 2)}, {"y": (FLOAT, 2)}, constants)


REFUSED = {
    "a node of two parents": (
        changed(nodes_truenodeids=[1, 0, 1, 0, 0], nodes_falsenodeids=[2, 0, 4, 0, 0]),
        "expected one root in each of 1 trees, got 2",
    ),
    "an island": (changed(nodes_truenodeids=[1, 0, 2, 0, 0], nodes_falsenodeids=[3, 0, 4, 0, 0]), "there is a cycle"),
    "a cycle": (
        changed(nodes_truenodeids=[1, 0, 0, 0, 0], nodes_falsenodeids=[2, 0, 3, 0, 0]),
        "4 of 5 nodes are not reached from a root: there is a cycle",
    ),
    "a branch to nowhere": (changed(nodes_truenodeids=[9, 0, 3, 0, 0]), "a node that there is not"),
    "a value of nobody": (changed(target_nodeids=[9, 1, 3, 3, 4, 4]), "a node that there is not"),
    "a value at a branch": (changed(target_nodeids=[0, 1, 3, 3, 4, 4]), "a node that is no leaf"),
    "a value of no target": (changed(target_ids=[0, 7, 0, 1, 0, 1]), "score 7, there are 2"),
    "a value that is infinite": (changed(target_weights=[float("inf"), 0, 0, 0, 0, 0]), "not finite"),
    "a feature out of range": (changed(nodes_featureids=[0, 0, 5, 0, 0]), "feature 5 of 2"),
    "a negative feature": (changed(nodes_featureids=[0, 0, -1, 0, 0]), "negative feature"),
    "a strange branch": (changed(nodes_modes=["BRANCH_LEQ", "LEAF", "BRANCH_MEMBER", "LEAF", "LEAF"]), "BRANCH_MEMBER"),
    "lists of several lengths": (changed(nodes_values=[0.0]), "expected 5 nodes_values, got 1"),
    "two nodes of one number": (changed(nodes_nodeids=[0, 1, 2, 3, 3]), "the same number"),
    "modes that are numbers": (changed(nodes_modes=[1, 2, 3, 4, 5]), "malformed"),
    "the least of all trees": (changed(aggregate_function="MIN"), "MIN of trees"),
    "the greatest of all trees": (changed(aggregate_function="MAX"), "MAX of trees"),
    "probit": (changed(post_transform="PROBIT"), "PROBIT"),
    "no targets": (changed(n_targets=-1), "at least one target"),
    "too many values": (changed(n_targets=2**40), "values"),
    "a normalizer before": (between(make("Normalizer", ["x"], ["t"], domain=ML)), "Normalizer.*mixes columns"),
    "a product before": (
        between(make("MatMul", ["x", "m"], ["t"]), constants={"m": np.eye(2, dtype=np.float32)}),
        r"\(MatMul\): it mixes columns",
    ),
    "a sum of columns": (between(make("Add", ["x", "x"], ["t"])), "mixes columns"),
    "rows side by side": (between(make("Concat", ["x", "x"], ["t"], axis=0)), "axis 0"),
    "rows reshaped": (
        between(make("Reshape", ["x", "m"], ["t"]), constants={"m": np.array([1, -1], np.int64)}),
        "keeps the rows",
    ),
    "another domain": (between(make("Tokenizer", ["x"], ["t"], domain="com.microsoft")), "of this domain"),
    "text into trees": (between(make("Identity", ["x"], ["t"]), kind=TensorProto.STRING), "expected numbers"),
    "unheard-of columns": (between(make("Identity", ["z"], ["t"])), '"z": expected a tensor that is an input'),
    "an index out of range": (
        between(make("Gather", ["x", "m"], ["t"], axis=1), constants={"m": np.array([2], np.int64)}),
        "out of range",
    ),
    "rows of any width": (between(make("Identity", ["x"], ["t"]), width=-1), "fixed number of columns"),
    "values that go round": (
        between(make("Identity", ["u"], ["v"]), make("Identity", ["v"], ["u"]), make("Identity", ["u"], ["t"])),
        "a cycle",
    ),
    "scores that go round": (behind(make("Add", ["s", "z"], ["z"]), make("Add", ["z", "s"], ["y"])), "a cycle"),
    "an exponential": (behind(make("Exp", ["s"], ["y"])), r"\(Exp\): what it does to the model's scores"),
    "a label": (behind(make("Cast", ["s"], ["y"], to=TensorProto.INT64)), "no floating"),
    "two links": (behind(make("Sigmoid", ["s"], ["a"]), make("Softmax", ["a"], ["y"])), "a second link"),
    "shares of scores": (behind(make("Normalizer", ["s"], ["y"], domain=ML, norm="L1")), "mixes columns"),
    "scores times scores": (behind(make("Mul", ["s", "s"], ["y"])), "mixes scores"),
    "an output from nowhere": (behind(make("Identity", ["s"], ["w"])), "not computed by trees"),
    "external data": (b"", "no nodes"),
    "nothing of a model": (b"\xff" * 40, "can't be parsed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cant_be_read_is_refused_with_the_reason(case: str) -> None:
    content, reason = REFUSED[case]

    with pytest.raises(NotReadable, match=reason):
        ModelGraph.read(content)


def test_data_in_another_file_are_refused() -> None:
    proto = onnx.ModelProto.FromString(
        between(make("Mul", ["x", "m"], ["t"]), constants={"m": np.ones((1, 2), np.float32)})
    )
    tensor = proto.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secrets")

    with pytest.raises(NotReadable, match='initializer "m": its data lie in another file'):
        ModelGraph.read(proto.SerializeToString())


def test_a_tower_of_columns_that_double_is_refused() -> None:
    nodes = [make("Concat", [f"x{at}", f"x{at}"], [f"x{at + 1}"], axis=1) for at in range(60)]

    with pytest.raises(NotReadable, match="expected at most 1048576 columns"):
        ModelGraph.read(between(make("Identity", ["x"], ["x0"]), *nodes, make("Identity", ["x60"], ["t"])))


def test_columns_that_part_and_meet_many_times_are_computed_once_each() -> None:
    """Otherwise 2^60 computations: the picked columns of each step are both of the step before."""
    nodes = []
    for at in range(60):
        nodes += [
            make("Gather", [f"x{at}", "left"], [f"l{at}"], axis=1),
            make("Gather", [f"x{at}", "right"], [f"r{at}"], axis=1),
            make("Concat", [f"r{at}", f"l{at}"], [f"x{at + 1}"], axis=1),
        ]
    constants = {"left": np.array([0], np.int64), "right": np.array([1], np.int64)}
    graph = ModelGraph.read(
        between(make("Identity", ["x"], ["x0"]), *nodes, make("Identity", ["x60"], ["t"]), constants=constants)
    )

    assert graph.matrix({"x": np.array([[3, 4]], np.float32)}).tolist() == [[3, 4]]


def test_a_named_output_is_read_and_an_unknown_one_refused() -> None:
    proto = onnx.ModelProto.FromString(behind(make("Sigmoid", ["s"], ["y"])))
    proto.graph.output.append(helper.make_tensor_value_info("s", FLOAT, ["rows", 2]))
    content = proto.SerializeToString()

    assert (ModelGraph.read(content).output, ModelGraph.read(content).link) == ("y", "logit")
    assert (ModelGraph.read(content, "s").output, ModelGraph.read(content, "s").link) == ("s", "identity")
    with pytest.raises(NotReadable, match='"other": the graph has none'):
        ModelGraph.read(content, "other")


@given(seed=st.integers(0, 2**32 - 1), at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_file_with_a_wrong_byte_is_read_or_refused(seed: int, at: float, byte: int) -> None:
    content = bytearray(regressor([draw_tree(np.random.default_rng(seed), 3, 3, 1, ("BRANCH_LEQ",))], 3))
    content[int(at * len(content))] = byte

    try:
        graph = ModelGraph.read(bytes(content))
    except NotReadable as error:
        assert error.reason
    else:
        assert len(graph.columns) <= 2**20


def test_a_path_with_too_many_features_is_refused() -> None:
    tree: Any = Leaf([0.0])
    for feature in range(63):
        tree = Split(feature, "BRANCH_LEQ", 0.0, False, tree, Leaf([float(feature)]))
    graph = ModelGraph.read(regressor([tree], 63))
    row = {"x": np.zeros((1, 63), np.float32)}

    with pytest.raises(NotReadable, match="a path with more than 62 features"):
        tree_values(graph, row, row, np.ones(1), {"x": np.arange(63)})


def test_players_covers_and_kinds_that_do_not_fit_are_refused() -> None:
    graph = ModelGraph.read(regressor([TREE], 2, 2))
    row = {"x": np.zeros((1, 2), np.float32)}

    with pytest.raises(NotReadable, match="the players are not those"):
        tree_values(graph, row, row, np.ones(1), {"x": np.arange(1)})
    with pytest.raises(NotReadable, match="expected 5 covers"):
        TreeValues(graph, row, np.ones(1), {"x": np.arange(2)}, algorithm="path_dependent", covers=np.ones(3))
    with pytest.raises(NotReadable, match="no linear one"):
        linear_values(graph, row, row, np.ones(1), {"x": np.arange(2)})
    with pytest.raises(NotReadable, match="input x: missing"):
        tree_values(graph, {}, row, np.ones(1), {"x": np.arange(2)})


def test_what_would_not_fit_is_refused_before_it_takes_memory() -> None:
    graph = ModelGraph.read(regressor([TREE], 2, 2))
    row = {"x": np.zeros((1, 2), np.float32)}
    many = {"x": np.broadcast_to(np.zeros(2, np.float32), (2**27, 2))}

    with pytest.raises(NotReadable, match="of 2 columns expected at most 67108864 rows, got 134217728"):
        tree_values(graph, many, row, np.ones(1), {"x": np.arange(2)})
    with pytest.raises(NotReadable, match="for 1000000 features and 2 columns expected at most 33 rows, got 40"):
        tree_values(graph, {"x": many["x"][:40]}, row, np.ones(1), {"x": np.array([0, 999_999])})
    with pytest.raises(NotReadable, match="at most 2048 scores, it has 3000"):
        ModelGraph.read(changed(n_targets=3000))


def test_an_unknown_category_that_the_model_refuses_is_refused() -> None:
    nodes = [
        make("OneHotEncoder", ["x"], ["a"], domain=ML, cats_strings=["de", "fr"], zeros=0),
        make("Reshape", ["a", "shape"], ["t"]),
    ]
    graph = ModelGraph.read(
        between(*nodes, constants={"shape": np.array([-1, 2], np.int64)}, width=1, kind=TensorProto.STRING)
    )

    assert graph.matrix({"x": np.array([[b"fr"]], object)}).tolist() == [[0, 1]]
    with pytest.raises(NotReadable, match="is not one of the 2 that it knows"):
        graph.matrix({"x": np.array([[b"it"]], object)})
