"""Where the bytes of a 602 kB tensor are copied on their way through the predictor's process, from wire to wire.

    python -m benchmarks.copies

A model that gives back what it gets is asked once in process. For each step: what Python and numpy allocated at the most
(`tracemalloc`), and by how much all that malloc has given out grew (`mallinfo2`, glibc), protobuf's arenas among it; both as
multiples of the tensor. What grpc copies before and after is stated from its source.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.tensors import add_inputs, add_outputs, read_inputs

SHAPE = (1, 3, 224, 224)
TENSOR_BYTES = 4 * 3 * 224 * 224
TIMES = 200

GRPC = """\
grpc, before: the kernel copies from the socket into slices, and grpc joins them to one bytes object: 1 copy
grpc, after: the bytes object is copied into a slice (grpc_slice_from_copied_buffer), and the kernel copies from it: 1 copy"""

R = TypeVar("R")


class _MallInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def given_out() -> int:
    """Bytes that malloc has given out and that were not freed, mapped ones among them."""
    info = _MALLINFO()
    return int(info.uordblks) + int(info.hblkhd)


def step(name: str, whose: str, work: Callable[[], R]) -> R:
    """Print what one step allocates and how long it takes, once it has run often; returns its last result."""
    result = work()
    took = []
    for _ in range(TIMES):
        del result
        began = time.perf_counter()
        result = work()
        took.append(time.perf_counter() - began)
    del result
    tracemalloc.start()
    before, given = tracemalloc.get_traced_memory()[0], given_out()
    result = work()
    grown, peak = given_out() - given, tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    print(
        f"{name:46} {whose:30} Python and numpy {peak / TENSOR_BYTES:4.1f}   malloc {grown / TENSOR_BYTES:4.1f}   "
        f"{median(took) * 1e6:6.0f} µs"
    )
    return result


def main() -> None:
    request = ModelInferRequest(model_name="m", id="1")
    add_inputs(request, {"x": np.random.default_rng(7).normal(size=SHAPE).astype(np.float32)})
    wire = request.SerializeToString()
    del request
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(_identity())
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    print(f"one tensor is {TENSOR_BYTES} bytes; figures are multiples of it")
    parsed = step("ModelInferRequest.FromString", "protobuf", lambda: ModelInferRequest.FromString(wire))
    step("request.raw_input_contents[0]", "protobuf", lambda: parsed.raw_input_contents[0])
    arrays = step("read_inputs (the line above, and a view of it)", "ours", lambda: read_inputs(parsed))
    outputs = step("session.run", "ONNX Runtime", lambda: session.run(None, arrays))

    def written() -> ModelInferResponse:
        response = ModelInferResponse(model_name="m", id="1")
        add_outputs(response, [("y", "FP32", outputs[0])], raw=True)
        return response

    response = step("add_outputs (tobytes, then append)", "ours 1, protobuf's arena 1", written)
    step("response.SerializeToString", "protobuf", response.SerializeToString)
    print(GRPC)


def _identity() -> bytes:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", *SHAPE[1:]]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    return bytes(model.SerializeToString())


_MALLINFO = ctypes.CDLL(None).mallinfo2
_MALLINFO.restype = _MallInfo

if __name__ == "__main__":
    main()
