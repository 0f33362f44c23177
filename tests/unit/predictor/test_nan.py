"""Answers with NaNs, and what an answer copies."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb
from services.predictor.nan import has_nan

KINDS = {
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}
NAN = {
    "FP16": np.array([1, np.nan, -np.inf], np.float16),
    "BF16": np.array([0x3F80, 0xFFC1, 0x7F80], np.uint16),
    "FP32": np.array([np.inf, -np.inf, np.nan], np.float32),
    "FP64": np.array([-1.0, np.nan, 1.0]),
}
LIMITS = {
    "FP16": np.array([65504, np.inf, -np.inf], np.float16),
    "BF16": np.array([0x7F80, 0xFF80, 0x7F7F], np.uint16),
    "FP32": np.array([3.4e38, np.inf, -np.inf], np.float32),
    "FP64": np.array([1e308, np.inf, -np.inf]),
}


@pytest.mark.parametrize("inline", ["0s", "1s"], ids=["in a thread", "inline"])
@pytest.mark.parametrize("name", NAN)
async def test_nans_in_an_answer_are_served_and_counted(
    serve: Any, put: Any, models: Any, ask: Any, name: str, inline: str
) -> None:
    """An answer with a NaN counts once, whatever its sign and place; infinities and the largest numbers are none."""
    put("m", 1, models.echo(KINDS[name]))
    predictor = await serve(inline_below=inline)
    statistics = predictor.repository.resolve("m", "").statistics

    for array, seen in ((NAN[name], 1), (LIMITS[name], 1), (NAN[name][:0], 1), (NAN[name], 2)):
        answer = await predictor.infer(ask("m", x=array, datatypes={"x": name}), Call())

        assert answer.raw_output_contents[0] == array.tobytes()
        assert statistics.nan_answers == seen


async def test_integers_of_the_same_bits_are_no_nans(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """UINT16 travels in the same numpy type as BF16."""
    put("m", 1, models.echo(TensorProto.UINT16))
    predictor = await serve()

    await predictor.infer(ask("m", x=NAN["BF16"]), Call())

    assert predictor.repository.resolve("m", "").statistics.nan_answers == 0


@pytest.mark.parametrize("name", NAN)
def test_a_nan_is_seen_in_every_shape(name: str) -> None:
    """Scalars, higher ranks, and views that do not lie in one piece."""
    bad = NAN[name][np.array([True, True, True])]
    nan = bad[1:2] if name != "FP32" else bad[2:]
    grid = np.zeros((4, 6), nan.dtype)

    assert has_nan(name, nan.reshape(()))
    assert not has_nan(name, grid[::2, 1::2])
    grid[2, 3] = nan[0]
    assert has_nan(name, grid)
    assert has_nan(name, grid[::2, 1::2])
    assert has_nan(name, grid.T)
    assert not has_nan(name, grid[1::2])


@pytest.mark.parametrize("datatype", ["INT64", "BOOL", "BYTES"])
def test_what_is_no_float_has_none(datatype: str) -> None:
    """Nothing is looked at."""
    assert not has_nan(datatype, np.array([1, 2]))


@pytest.mark.parametrize(("slice_rows", "most"), [(0, 8_500_000), (4096, 12_500_000)], ids=["whole", "in slices"])
async def test_the_bytes_of_tensors_are_copied_once_each_way(
    serve: Any, put: Any, models: Any, ask: Any, slice_rows: int, most: int
) -> None:
    """What Python holds at most while a large raw request is answered: the input's bytes once, and the output's once.

    protobuf's own copies, in and out of its messages, are not Python's memory, nor are the outputs of a run: of one in slices
    they are put into an array that is.
    """
    put("m", 1, models.echo(TensorProto.FLOAT))
    predictor = await serve(inline_below="0s", slice_rows=slice_rows)
    request = pb.ModelInferRequest.FromString(ask("m", x=np.ones(1_000_000, np.float32)).SerializeToString())
    await predictor.infer(ask("m", x=np.ones(1, np.float32)), Call())

    tracemalloc.start()
    try:
        await predictor.infer(request, Call())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 4_000_000 <= peak < most
