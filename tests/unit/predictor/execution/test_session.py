"""What a session takes: optional inputs, every kind of shape and datatype, in a thread and on the event loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from infermesh.call import Call
from infermesh.errors import InvalidRequest
from infermesh.tensors import read_outputs
from services.predictor.config import ExecutionConfig
from services.predictor.execution.session import Session
from services.predictor.load_failed import LoadFailed


def opened(folder: Path, content: bytes, **execution: Any) -> Session:
    (folder / "model.onnx").write_bytes(content)
    return Session("m", 1, folder / "model.onnx", ExecutionConfig(**{"intra_op_threads": 1, **execution}))


def built(nodes: Any, inputs: Any, outputs: Any, initializers: Any = (), opset: int = 18) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.fixture
def default() -> bytes:
    """y = x + w, where w is 1 unless a request gives it, for the same columns."""
    value = helper.make_tensor_value_info
    return built(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [value("x", TensorProto.FLOAT, ["rows", "columns"]), value("w", TensorProto.FLOAT, [3])],
        [value("y", TensorProto.FLOAT, ["rows", "columns"])],
        [numpy_helper.from_array(np.ones(3, np.float32), "w")],
    )


@pytest.fixture
def absent() -> bytes:
    """Whether the optional input `o` was given."""
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["rows"]))
    return built(
        [helper.make_node("OptionalHasElement", ["o"], ["has"]), helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows"]), helper.make_value_info("o", optional)],
        [
            helper.make_tensor_value_info("has", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"]),
        ],
    )


@pytest.mark.parametrize("inline_below", ["1s", "0s"])
async def test_a_weight_with_a_default_may_be_given_or_left_out(
    put: Any, serve: Any, ask: Any, default: bytes, inline_below: str
) -> None:
    """An initializer that is a graph input too: metadata names it, requests need not."""
    put("m", 1, default)
    predictor = await serve(inline_below=inline_below)
    x = np.zeros((2, 3), np.float32)

    without = read_outputs(await predictor.infer(ask("m", x=x), Call()))["y"]
    given = read_outputs(await predictor.infer(ask("m", x=x, w=np.full(3, 7, np.float32)), Call()))["y"]

    assert (without.tolist(), given.tolist()) == ([[1.0] * 3] * 2, [[7.0] * 3] * 2)
    assert predictor.repository.resolve("m", "").signature.optional == {"w"}


@pytest.mark.parametrize("inline_below", ["1s", "0s"])
async def test_an_optional_input_may_be_absent(
    put: Any, serve: Any, ask: Any, absent: bytes, inline_below: str
) -> None:
    """ONNX's optional type: the graph sees whether there is a value."""
    put("m", 1, absent)
    predictor = await serve(inline_below=inline_below)
    x = np.zeros(2, np.float32)

    for arrays, has in (({"x": x}, False), ({"x": x, "o": x}, True), ({"x": x}, False)):
        answer = read_outputs(await predictor.infer(ask("m", **arrays), Call()))
        assert answer["has"].item() is has and answer["y"].shape == (2,)


def test_only_optional_inputs_may_be_missing(tmp_path: Path, default: bytes, absent: bytes) -> None:
    """The error marks those that may; what is given has to fit, in dimensions that are shared by name too."""
    signature = opened(tmp_path, default).signature
    with pytest.raises(InvalidRequest, match=r'input "x": missing; expected x FP32 .*w FP32 \[3\] \(optional\)'):
        signature.check({"w": np.ones(3, np.float32)})
    with pytest.raises(InvalidRequest, match='input "v": no such input'):
        signature.check({"x": np.ones((1, 3), np.float32), "v": np.ones(3, np.float32)})
    with pytest.raises(InvalidRequest, match=r'input "w": expected FP32 \[3\], got shape \[4\]'):
        signature.check({"x": np.ones((1, 3), np.float32), "w": np.ones(4, np.float32)})

    signature = opened(tmp_path, absent).signature
    signature.check({"x": np.ones(2, np.float32)})
    with pytest.raises(InvalidRequest, match=r'input "o": expected 2 in dimension 0 \(rows\), as input "x" has'):
        signature.check({"x": np.ones(2, np.float32), "o": np.ones(3, np.float32)})


def test_what_python_can_not_run_is_refused_at_load(tmp_path: Path) -> None:
    """An absent value beside a BF16 output."""
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["rows"]))
    content = built(
        [
            helper.make_node("OptionalHasElement", ["o"], ["has"]),
            helper.make_node("Cast", ["has"], ["y"], to=TensorProto.BFLOAT16),
        ],
        [helper.make_value_info("o", optional)],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [])],
    )

    with pytest.raises(LoadFailed, match="input o is of an optional type and output y is bfloat16"):
        opened(tmp_path, content)


KINDS = {
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "BF16": (TensorProto.BFLOAT16, np.uint16),
    "INT64": (TensorProto.INT64, np.int64),
    "BOOL": (TensorProto.BOOL, np.bool_),
    "BYTES": (TensorProto.STRING, np.object_),
}


@pytest.mark.parametrize("inline_below", ["1s", "0s"])
@pytest.mark.parametrize("datatype", KINDS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (2, 3), (4, 1, 2)])
async def test_every_shape_of_every_kind_goes_through(
    put: Any, serve: Any, models: Any, ask: Any, datatype: str, shape: tuple[int, ...], inline_below: str
) -> None:
    """Scalars, zero rows and free dimensions, on the event loop and in a thread, bit for bit."""
    kind, dtype = KINDS[datatype]
    put("m", 1, models.echo(kind, [f"axis{i}" for i in range(len(shape))]))
    predictor = await serve(inline_below=inline_below)
    count = int(np.prod(shape))
    values = [f"wört{i}".encode() for i in range(count)] if datatype == "BYTES" else np.arange(count) % 2
    array = np.array(values, dtype).reshape(shape)

    request = ask("m", x=array, datatypes={"x": datatype})
    answer = await predictor.infer(request, Call())

    assert answer.raw_output_contents[0] == request.raw_input_contents[0]
    assert list(answer.outputs[0].shape) == list(shape)


async def test_branches_may_run_side_by_side(put: Any, serve: Any, models: Any, ask: Any) -> None:
    """`inter_op_threads` above 1 is ONNX Runtime's parallel execution, with the same answers."""
    branches = models.model(
        [
            helper.make_node("Add", ["x", "n"], ["a"]),
            helper.make_node("Mul", ["x", "n"], ["b"]),
            helper.make_node("Sub", ["a", "b"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, ["rows"])},
        {"y": (TensorProto.FLOAT, ["rows"])},
        n=np.array(2, np.float32),
    )
    put("m", 1, branches)
    predictor = await serve(inter_op_threads=2)

    answer = read_outputs(await predictor.infer(ask("m", x=np.array([1, 5], np.float32)), Call()))

    assert answer["y"].tolist() == [1, -3]
