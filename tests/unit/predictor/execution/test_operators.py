"""Operators are read from the file as the onnx package reads them, whatever the file is; and which of them are bounded."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from services.predictor.execution.by_shape import BY_SHAPE, cost_follows_from_shapes
from services.predictor.execution.operators import MOST_NODES, MalformedModel, operators_of

SAMPLES = sorted((Path(__file__).parents[4] / "samples/models").rglob("model.onnx"))
Save = Callable[[bytes], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(content: bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        return path

    return save


def expected(proto: Any) -> set[tuple[str, str]] | None:
    if proto.functions or len(proto.graph.node) > MOST_NODES:
        return None
    return {(node.domain, node.op_type) for node in proto.graph.node}


def random_model(draw: random.Random) -> Any:
    """Everything that may stand in a file: weights, subgraphs, metadata, documentation, types, domains."""

    def graph(depth: int) -> Any:
        nodes = []
        for at in range(draw.randint(0, 12)):
            name = draw.choice(["Add", "MatMul", "Relu", "Loop", "If", "Ünïcode", "x" * 200])
            node = helper.make_node(
                name, ["a"] * draw.randint(0, 300), [f"o{at}"], domain=draw.choice(["", "", "ai.onnx.ml"])
            )
            node.doc_string = draw.choice(["", "\x22\x04Loop" * draw.randint(1, 50)])
            if draw.random() < 0.3:
                node.attribute.append(
                    helper.make_attribute("floats", [draw.random() for _ in range(draw.randint(1, 99))])
                )
            if draw.random() < 0.3:
                node.attribute.append(
                    helper.make_attribute("t", numpy_helper.from_array(np.zeros(draw.randint(0, 5000))))
                )
            if depth and draw.random() < 0.3:
                node.attribute.append(helper.make_attribute("g", graph(depth - 1)))
            nodes.append(node)
        weights = [
            numpy_helper.from_array(np.zeros(draw.randint(0, 40_000), np.float32), "w")
            for _ in range(draw.randint(0, 3))
        ]
        return helper.make_graph(
            nodes, "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])], weights
        )

    proto = helper.make_model(graph(2))
    proto.metadata_props.add(key="a", value="b" * draw.randint(0, 300))
    proto.model_version = draw.choice([0, 1, 2**62])
    return proto


@pytest.mark.parametrize("seed", range(40))
def test_the_operators_are_those_that_the_onnx_package_reads(save: Save, seed: int) -> None:
    """In random models; what only looks like an operator, in a text or a subgraph, is none of the main graph."""
    proto = random_model(random.Random(seed))

    assert operators_of(save(proto.SerializeToString())) == expected(proto)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_never_has_fewer_operators_than_it_is_read_to_have(save: Save, seed: int) -> None:
    """Bytes changed, cut or put in: either it is said to be malformed, or no operator that protobuf finds is overlooked."""
    draw = random.Random(seed)
    intact = random_model(draw).SerializeToString()
    read = 0
    for _ in range(100):
        content = bytearray(intact)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(content))
            how = draw.randrange(3)
            if how == 0:
                content[at] = draw.randrange(256)
            elif how == 1:
                content[at:at] = draw.randbytes(draw.randint(1, 4))
            else:
                del content[at : at + draw.randint(1, 20)]
        proto = onnx.ModelProto()
        try:
            proto.ParseFromString(bytes(content))
        except DecodeError:
            proto = None
        try:
            found = operators_of(save(bytes(content)))
        except MalformedModel:
            continue
        read += 1
        if proto is not None and found is not None:
            assert found >= (expected(proto) or set())
            assert not proto.functions
    assert read > 3


@pytest.mark.parametrize(
    "content",
    [b"\x3a", b"\x3a\x05\x0a", b"\xff" * 20, b"\x00\x01", b"\x3b\x3c", b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
     b"no model at all",
     b"\x3a\x06\x0a\x04\x22\x02\xff\xfe", b"\x3a\x08\x0a\x03\x22\x05Relu"],
    ids=["no length", "longer than the file", "tag", "field 0", "group", "varint", "text", "name", "name past its node"],
)  # fmt: skip
def test_what_is_no_model_is_malformed_and_not_bounded(save: Save, content: bytes) -> None:
    """Of such a file nothing is known, so it is taken for one that may take any time."""
    with pytest.raises(MalformedModel):
        operators_of(save(content))

    assert not cost_follows_from_shapes(save(content))


def test_a_second_name_of_a_node_or_graph_counts_too(save: Save) -> None:
    """Protobuf takes the last one, and joins graphs: whichever is meant, all are looked at."""
    node = b"\x22\x04Relu\x22\x04Loop\x22\x03Abs"
    graph = b"\x0a" + bytes([len(node)]) + node
    content = b"\x3a" + bytes([len(graph)]) + graph + b"\x3a\x09\x0a\x07\x22\x05Range"

    assert operators_of(save(content)) == {("", name) for name in ("Relu", "Loop", "Abs", "Range")}


def test_a_model_with_functions_or_very_many_operators_is_not_bounded(save: Save) -> None:
    """A function may be named like an operator; reading many nodes would take longer than it is worth."""
    nodes = [helper.make_node("Relu", ["x"], ["x"])] * (MOST_NODES + 1)
    graph = helper.make_graph(nodes[:1], "g", [], [])
    body = helper.make_function("ai.onnx.ml", "Scaler", ["x"], ["y"], nodes[:1], [helper.make_opsetid("", 16)])

    assert cost_follows_from_shapes(save(helper.make_model(graph).SerializeToString()))
    assert not cost_follows_from_shapes(save(helper.make_model(graph, functions=[body]).SerializeToString()))
    many = helper.make_model(helper.make_graph(nodes, "g", [], []))
    assert not cost_follows_from_shapes(save(many.SerializeToString()))


@pytest.mark.parametrize("path", SAMPLES, ids=[f"{p.parts[-3]}-{p.parts[-2]}" for p in SAMPLES])
def test_the_samples_are_bounded(path: Path) -> None:
    """Forests and linear models are what inline runs are for."""
    assert cost_follows_from_shapes(path)


def test_only_operators_that_exist_and_have_no_subgraph_are_bounded() -> None:
    """A name that ONNX does not have would be a typing error; a subgraph would not be looked into."""
    schemas = {(schema.domain, schema.name): schema for schema in onnx.defs.get_all_schemas()}

    for domain, names in BY_SHAPE.items():
        for name in names - NEWER:
            schema = schemas["" if domain == "ai.onnx" else domain, name]
            kinds = {str(attribute.type).rpartition(".")[2] for attribute in schema.attributes.values()}
            assert not kinds & {"GRAPH", "GRAPHS"}, name


NEWER = frozenset(
    {"RMSNormalization", "Swish", "TreeEnsemble"}
)  # than the oldest onnx package that these tests may run with
