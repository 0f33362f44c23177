"""How often the bytes of a tensor are copied between the parsed request and the response message.

`tracemalloc` sees what Python and numpy allocate. protobuf's arenas are not among it: what it copies by itself is
protobuf's, and `benchmarks/copies.py` states it.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from onnx import TensorProto

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import add_outputs, read_inputs, read_outputs

SHAPE = (1, 3, 224, 224)
PAYLOAD = 4 * 3 * 224 * 224
SLACK = PAYLOAD // 4  # for all that is not tensor data; a copy more is four times that

R = TypeVar("R")


@pytest.fixture
def image() -> Any:
    return np.random.default_rng(7).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak_of(work: Callable[[], R]) -> tuple[R, int]:
    """What `work` returns, and by how many bytes what is allocated grew at the most."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    result = work()
    return result, tracemalloc.get_traced_memory()[1] - before


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_reading_copies_nothing_but_what_protobuf_hands_over(ask: Any, image: Any, traced: None, raw: bool) -> None:
    """Python's protobuf gives a field's bytes as one new object; the array is a view of that."""
    request = ask("m", raw=raw, x=image)

    arrays, peak = peak_of(lambda: read_inputs(request))

    assert np.array_equal(arrays["x"], image)
    assert not arrays["x"].flags.owndata
    assert peak <= PAYLOAD + SLACK


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_writing_copies_once(image: Any, traced: None, raw: bool) -> None:
    """protobuf takes bytes alone, so an output becomes one bytes object, and no second one."""
    response = pb.ModelInferResponse(model_name="m")

    _, peak = peak_of(lambda: add_outputs(response, [("y", "FP32", image)], raw=raw))

    assert np.array_equal(read_outputs(response)["y"], image)
    assert peak <= PAYLOAD + SLACK


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
async def test_a_call_copies_its_input_and_its_output_once(
    serve: Any, put: Any, models: Any, ask: Any, image: Any, raw: bool
) -> None:
    """From the parsed request to the response there is the input's bytes and the output's, and no third. (ONNX Runtime's own
    output lies in its arena.)"""
    put("m", 1, models.echo(TensorProto.FLOAT, ["rows", *SHAPE[1:]]))
    predictor = await serve()
    request = ask("m", raw=raw, x=image)
    await predictor.infer(request, Call())  # what is made once is no part of a call
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]

        response = await predictor.infer(request, Call())

        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert np.array_equal(read_outputs(response)["y"], image)
    assert peak <= 2 * PAYLOAD + SLACK
