"""The models that the conformance cases talk to, as a repository `<root>/<model>/<version>/model.onnx`.

`MODELS` says of each what a server must tell in its metadata: the cases compare with it, and the graphs are built from it.
Nothing is trained and nothing is random, so two runs write the same files.

    python tests/conformance/conformance_models.py DIRECTORY
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

__all__ = ["BROKEN_MODEL", "FAIL_TABLE", "LABELS", "LINEAR_BIAS", "LINEAR_WEIGHTS", "MODELS", "Model", "Tensor", "make"]

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

LINEAR_WEIGHTS = (0.5, -2.0, 3.0)
LINEAR_BIAS = 1.0

# Its file is no ONNX model: a server has to start without it, say so, and serve the others.
BROKEN_MODEL = "conf-broken"
BROKEN = b"This is not an ONNX model."

OPSET = 16
IR_VERSION = 8  # read by every ONNX Runtime since 1.11

# One MatMul of this size takes about a millisecond of one core, so `n` of conf-slow is about milliseconds.
SLOW_SIZE = 384
# A warm-up with arbitrary values must not keep a server busy for minutes.
SLOW_MOST = 5000

LOAD_PRODUCTS = 20

FAIL_TABLE = (10.0, 11.0, 12.0, 13.0)


@dataclass(frozen=True)
class Tensor:
    """A tensor as the metadata tells it; -1 is a dimension of any size, an empty shape is a scalar."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """What a model takes and gives, and how its graph is made for a version."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    graph: Callable[[Model, int], GraphProto]
    versions: tuple[int, ...] = (1,)


QUEUE_MODEL = "conf-queue"
BATCHED_MODEL = "conf-batched"
LABELS = {"stable": 2}  # of conf-versions: names that stand for a version


def make(repository: Path) -> None:
    """Write every model of `MODELS`, and the broken one, under `repository`; files that are there are written anew."""
    for name, model in MODELS.items():
        for version in model.versions:
            _write(repository / name / str(version), _proto(model.graph(model, version)).SerializeToString())
    _write(repository / BROKEN_MODEL / "1", BROKEN)
    labels = ", ".join(f"{label}: {version}" for label, version in LABELS.items())
    (repository / "conf-versions" / "config.yaml").write_text(f"labels: {{{labels}}}\n")
    # Off the event loop, where nothing is batched: calls are to meet in its queue.
    (repository / BATCHED_MODEL / "config.yaml").write_text(
        "batching: {enabled: true, max_rows: 32}\nexecution: {inline_below: 0s}\n"
    )
    (repository / QUEUE_MODEL / "config.yaml").write_text("queue: {max_requests: 32}\n")  # it is to be filled by a test


def _write(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)


def _proto(graph: GraphProto) -> ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _graph(model: Model, nodes: list[NodeProto], **constants: np.ndarray) -> GraphProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return helper.make_graph(nodes, "conformance", _values(model.inputs), _values(model.outputs), initializers)


def _values(tensors: tuple[Tensor, ...]) -> list[ValueInfoProto]:
    """The dimensions of any size get a name by position; the first is the batch and has one name in every tensor."""
    return [
        helper.make_tensor_value_info(
            tensor.name,
            ONNX_TYPES[tensor.datatype],
            [("rows" if at == 0 else f"d{at}") if size == -1 else size for at, size in enumerate(tensor.shape)],
        )
        for tensor in tensors
    ]


def _identity(model: Model, version: int) -> GraphProto:
    return _graph(model, [helper.make_node("Identity", ["x"], ["y"])])


def _echo(datatype: str, *shape: int) -> Model:
    return Model((Tensor("x", datatype, shape),), (Tensor("y", datatype, shape),), _identity)


def _sum_and_difference(model: Model, version: int) -> GraphProto:
    return _graph(
        model, [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    )


def _row_sums(model: Model, version: int) -> GraphProto:
    return _graph(model, [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)], axes=np.array([1]))


def _add_version(model: Model, version: int) -> GraphProto:
    return _graph(model, [helper.make_node("Add", ["x", "version"], ["y"])], version=np.array(version, np.float32))


def _linear(model: Model, version: int) -> GraphProto:
    return _graph(
        model,
        [helper.make_node("MatMul", ["x", "weights"], ["products"]), helper.make_node("Add", ["products", "b"], ["y"])],
        weights=np.array(LINEAR_WEIGHTS, np.float32).reshape(3, 1),
        b=np.array([LINEAR_BIAS], np.float32),
    )


def _slow_to_load(model: Model, version: int) -> GraphProto:
    """An echo whose zero is a product of many matrices, computed while the model is loaded: a gap is not missed."""
    names = ["factor", *(f"product{turn}" for turn in range(LOAD_PRODUCTS))]
    filling = numpy_helper.from_array(np.array([1 / SLOW_SIZE], np.float32))
    return _graph(
        model,
        [
            helper.make_node("ConstantOfShape", ["matrix"], ["factor"], value=filling),
            *(helper.make_node("MatMul", [before, "factor"], [after]) for before, after in pairwise(names)),
            helper.make_node("ReduceMean", [names[-1]], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "none"], ["zero"]),
            helper.make_node("Add", ["x", "zero"], ["y"]),
        ],
        matrix=np.array([SLOW_SIZE, SLOW_SIZE]),
        none=np.array(0, np.float32),
    )


def _look_up(model: Model, version: int) -> GraphProto:
    """An index outside the table fails at run time, and as ONNX Runtime's FAIL: nothing that a server could foresee."""
    return _graph(
        model, [helper.make_node("GatherElements", ["table", "index"], ["y"])], table=np.array(FAIL_TABLE, np.float32)
    )


def _row_sums_and_look_up(model: Model, version: int) -> GraphProto:
    """Row sums, after products that take a millisecond or two for one row and hardly more for thirty, and are multiplied by
    zero; beside them the look-up that may fail."""
    filling = numpy_helper.from_array(np.array([1 / SLOW_SIZE], np.float32))
    names = ["wide", *(f"product{turn}" for turn in range(LOAD_PRODUCTS))]
    return _graph(
        model,
        [
            helper.make_node("ReduceSum", ["x", "columns"], ["sums"], keepdims=1),
            helper.make_node("ConstantOfShape", ["matrix"], ["factor"], value=filling),
            helper.make_node("MatMul", ["x", "widening"], ["wide"]),
            *(helper.make_node("MatMul", [before, "factor"], [after]) for before, after in pairwise(names)),
            helper.make_node("ReduceMean", [names[-1]], ["mean"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["mean", "none"], ["zero"]),
            helper.make_node("Add", ["sums", "zero"], ["y"]),
            helper.make_node("GatherElements", ["table", "index"], ["z"]),
        ],
        columns=np.array([1]),
        matrix=np.array([SLOW_SIZE, SLOW_SIZE]),
        widening=np.ones((3, SLOW_SIZE), np.float32),
        none=np.array(0, np.float32),
        table=np.array(FAIL_TABLE, np.float32),
    )


def _mixed(model: Model, version: int) -> GraphProto:
    return _graph(
        model,
        [
            helper.make_node("Identity", ["number"], ["number_out"]),
            helper.make_node("Identity", ["count"], ["count_out"]),
            helper.make_node("Identity", ["text"], ["text_out"]),
            helper.make_node("Cast", ["number"], ["half_out"], to=TensorProto.FLOAT16),
        ],
    )


def _multiply_n_times(model: Model, version: int) -> GraphProto:
    """Each turn of the loop multiplies what the last one left, so no optimiser can take the work out of it.

    The matrix is constant-filled such that every product equals it, and is multiplied by zero before it is added to the
    answer: `done` is the number of turns.
    """
    matrix = [SLOW_SIZE, SLOW_SIZE]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "factor"], ["after"]),
            helper.make_node("Identity", ["going"], ["goes_on"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, matrix),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, matrix),
        ],
    )
    filling = numpy_helper.from_array(np.array([1 / SLOW_SIZE], np.float32))
    nodes = [
        helper.make_node("Min", ["n", "most"], ["capped"]),
        helper.make_node("Max", ["capped", "none"], ["turns"]),
        helper.make_node("Squeeze", ["turns"], ["trip_count"]),
        helper.make_node("ConstantOfShape", ["matrix"], ["factor"], value=filling),
        helper.make_node("Loop", ["trip_count", "yes", "factor"], ["product"], body=body),
        helper.make_node("ReduceMean", ["product"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["whole_mean"], to=TensorProto.INT64),
        helper.make_node("Mul", ["whole_mean", "none"], ["zero"]),
        helper.make_node("Add", ["turns", "zero"], ["done"]),
    ]
    return _graph(
        model,
        nodes,
        most=np.array([SLOW_MOST]),
        none=np.array([0]),
        matrix=np.array(matrix),
        yes=np.array(True),
    )


_SLOW = Model((Tensor("n", "INT64", (1,)),), (Tensor("done", "INT64", (1,)),), _multiply_n_times)

MODELS: dict[str, Model] = {
    # ONNX Runtime reports [] for a scalar and for an unknown rank, and the ONNX checker refuses the latter. So every
    # model declares its rank: an echo takes a vector, and scalars and matrices have echoes of their own.
    **{f"conf-echo-{datatype.lower()}": _echo(datatype, -1) for datatype in ONNX_TYPES},
    "conf-echo-fp32-scalar": _echo("FP32"),
    "conf-echo-fp32-r2": _echo("FP32", -1, -1),
    "conf-echo-fp32-r4": _echo("FP32", -1, -1, -1, -1),
    "conf-sum": Model(
        (Tensor("a", "FP32", (-1, 4)), Tensor("b", "FP32", (-1, 4))),
        (Tensor("sum", "FP32", (-1, 4)), Tensor("difference", "FP32", (-1, 4))),
        _sum_and_difference,
    ),
    "conf-mixed": Model(
        (Tensor("number", "FP32", (-1,)), Tensor("count", "INT64", (-1,)), Tensor("text", "BYTES", (-1,))),
        (
            Tensor("number_out", "FP32", (-1,)),
            Tensor("count_out", "INT64", (-1,)),
            Tensor("text_out", "BYTES", (-1,)),
            Tensor("half_out", "FP16", (-1,)),
        ),
        _mixed,
    ),
    "conf-batch": Model((Tensor("x", "FP32", (-1, 3)),), (Tensor("y", "FP32", (-1, 1)),), _row_sums),
    "conf-batched": Model(
        (Tensor("x", "FP32", (-1, 3)), Tensor("index", "INT64", (-1,))),
        (Tensor("y", "FP32", (-1, 1)), Tensor("z", "FP32", (-1,))),
        _row_sums_and_look_up,
    ),
    "conf-slow": _SLOW,
    "conf-queue": _SLOW,
    "conf-fail": Model((Tensor("index", "INT64", (-1,)),), (Tensor("y", "FP32", (-1,)),), _look_up),
    "conf-versions": Model(
        (Tensor("x", "FP32", (-1,)),), (Tensor("y", "FP32", (-1,)),), _add_version, versions=(1, 2, 10)
    ),
    "conf-linear": Model((Tensor("x", "FP32", (-1, 3)),), (Tensor("y", "FP32", (-1, 1)),), _linear),
    "conf-reload": Model((Tensor("x", "FP32", (-1,)),), (Tensor("y", "FP32", (-1,)),), _slow_to_load),
}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    make(Path(sys.argv[1]))
