"""Answers that are kept."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from infermesh.call import Call
from infermesh.errors import InvalidRequest
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import read_outputs
from services.predictor.response_cache import ENTRY_OVERHEAD_BYTES, ResponseCache

X = np.array([1, 2], np.float32)
ON = {"enabled": True}


def answer(size: int = 8) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(model_name="m", id="1", raw_output_contents=[bytes(size)])


def counts(predictor: Any, version: str = "1") -> tuple[int, int, int]:
    """Hits, misses and runs."""
    statistics = predictor.repository.resolve("m", version).statistics
    return statistics.cache_hit.count, statistics.cache_miss.count, statistics.compute_seconds.count


async def test_an_equal_request_is_answered_from_memory(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """The same bits, with the id and the model name of the one who asks, and without a run."""
    put("m", 1, models.add(1))
    predictor = await serve(response_cache=ON)
    first = await predictor.infer(ask("m", x=X), Call())
    again = ask("m", x=X)
    again.id = "another"

    second = await predictor.infer(again, Call())

    assert second.id == "another" and first.id == "7"
    second.id = "7"
    assert second.SerializeToString() == first.SerializeToString()
    assert counts(predictor) == (1, 1, 1)
    assert predictor.repository.resolve("m", "").statistics.success.count == 2


async def test_a_copy_is_answered_by_the_model(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """A shadow's copy, or a primary that is asked again, is neither answered from memory nor kept: it is to be compared."""
    put("m", 1, models.add(1))
    predictor = await serve(response_cache=ON)
    for _ in range(3):
        await predictor.infer(ask("m", x=X), Call(shadow=True))
    cache = predictor.repository.resolve("m", "").response_cache
    assert len(cache) == 0

    await predictor.infer(ask("m", x=X), Call())
    await predictor.infer(ask("m", x=X), Call(shadow=True))

    assert len(cache) == 1
    assert counts(predictor) == (0, 1, 5)


async def test_what_a_caller_does_with_an_answer_does_not_reach_the_next(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    """A response belongs to its receiver, who may change it: parameters of one call must not turn up in another."""
    put("m", 1, models.add(1))
    predictor = await serve(response_cache=ON)

    for _ in range(3):
        response = await predictor.infer(ask("m", x=X), Call())
        assert not response.parameters
        assert read_outputs(response)["y"].tolist() == [2, 3]
        response.parameters["p"].bool_param = True
        response.raw_output_contents[0] = b"changed!"


def two(models: Any) -> bytes:
    kinds = {"a": (TensorProto.FLOAT, ["r", "c"]), "b": (TensorProto.FLOAT, ["r", "c"])}
    nodes = [helper.make_node("Sub", ["a", "b"], ["less"]), helper.make_node("Add", ["a", "b"], ["more"])]
    return bytes(
        models.model(nodes, kinds, {"less": (TensorProto.FLOAT, ["r", "c"]), "more": (TensorProto.FLOAT, ["r", "c"])})
    )


async def test_whatever_the_answer_depends_on_is_in_the_key(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """Values, which input they are of, shape, raw or typed, outputs and their order: each alone makes another request."""
    put("m", 1, two(models))
    predictor = await serve(response_cache=ON)
    a, b = np.array([[1, 2]], np.float32), np.array([[3, 4]], np.float32)
    less_more = ask("m", a=a, b=b)
    less_more.outputs.add(name="less")
    less_more.outputs.add(name="more")
    more_less = ask("m", a=a, b=b)
    more_less.outputs.add(name="more")
    more_less.outputs.add(name="less")
    only = ask("m", a=a, b=b)
    only.outputs.add(name="less")
    requests = [
        ask("m", a=a, b=b),
        ask("m", a=b, b=a),
        ask("m", a=a.T, b=b.T),
        ask("m", a=a, b=b, raw=False),
        ask("m", a=-a * 0, b=b),
        ask("m", a=a * 0, b=b),
        less_more,
        more_less,
        only,
    ]

    fresh = [await predictor.infer(request, Call()) for request in requests]
    kept = [await predictor.infer(request, Call()) for request in requests]

    assert [r.SerializeToString() for r in fresh] == [r.SerializeToString() for r in kept]
    assert counts(predictor) == (len(requests), len(requests), len(requests))


def test_neighbours_in_a_request_do_not_run_together_in_the_key() -> None:
    """What ends one part and begins the next is told by lengths: names and bytes can't be moved across."""

    def key(inputs: list[tuple[str, str]], raws: list[bytes], outputs: list[str]) -> bytes:
        request = pb.ModelInferRequest(raw_input_contents=raws)
        for name, datatype in inputs:
            request.inputs.add(name=name, datatype=datatype, shape=[1])
        for name in outputs:
            request.outputs.add(name=name)
        return ResponseCache.key(request)

    keys = [
        key([("ab", "FP32")], [b"12"], ["o"]),
        key([("a", "bFP32")], [b"12"], ["o"]),
        key([("ab", "FP32")], [b"1", b"2"], ["o"]),
        key([("ab", "FP32")], [b"12", b""], ["o"]),
        key([("ab", "FP32")], [b"12"], ["o", ""]),
        key([("ab", "FP32")], [b"12"], []),
        key([("ab", "FP32")], [b"12 output 1 o "], []),
    ]

    assert len(set(keys)) == len(keys)


async def test_versions_share_nothing(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """Nor does a version that is loaded again know what its predecessor answered."""
    put("m", 1, models.add(1))
    put("m", 2, models.add(2))
    predictor = await serve(response_cache=ON)

    async def value(version: str) -> list[float]:
        return read_outputs(await predictor.infer(ask("m", version=version, x=X), Call()))["y"].tolist()  # type: ignore[no-any-return]

    assert [await value("1"), await value("2"), await value("1")] == [[2, 3], [3, 4], [2, 3]]
    put("m", 1, models.add(10))
    await predictor.repository.load("m")

    assert await value("1") == [11, 12]
    assert counts(predictor) == (0, 1, 1)


async def test_errors_are_not_kept_and_nan_answers_are(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """A request that is wrong is looked at each time; one with NaNs in its answer is as good as any."""
    put("m", 1, models.add(1))
    predictor = await serve(response_cache=ON)

    for _ in range(2):
        with pytest.raises(InvalidRequest):
            await predictor.infer(ask("m", y=X), Call())
        answer = await predictor.infer(ask("m", x=np.array([np.nan], np.float32)), Call())
        assert np.isnan(read_outputs(answer)["y"]).all()

    statistics = predictor.repository.resolve("m", "").statistics
    assert counts(predictor) == (1, 3, 1)
    assert (statistics.begun, statistics.success.count, statistics.fail.count) == (4, 2, 2)


async def test_parameters_are_checked_before_an_answer_is_looked_for(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    """What is kept is no way round the protocol's rules."""
    put("m", 1, models.add(1))
    predictor = await serve(response_cache=ON)
    await predictor.infer(ask("m", x=X), Call())
    request = ask("m", x=X)
    request.parameters["p"].SetInParent()

    with pytest.raises(InvalidRequest, match='parameter "p": expected a value'):
        await predictor.infer(request, Call())


async def test_a_large_request_is_hashed_aside(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """And found again; equal requests that come together may run each for itself."""
    put("m", 1, models.add(1))
    predictor = await serve(response_cache=ON)
    request = ask("m", x=np.arange(200_000, dtype=np.float32))

    await asyncio.gather(*(predictor.infer(request, Call()) for _ in range(4)))
    hits = counts(predictor)[0]
    await predictor.infer(request, Call())

    assert counts(predictor)[0] == hits + 1
    assert len(predictor.repository.resolve("m", "").response_cache) == 1


async def test_it_is_off_unless_it_is_asked_for(serve: Any, put: Any, models: Any, ask: Any) -> None:
    """Equal requests run, and nothing is counted as a miss."""
    put("m", 1, models.add(1))
    predictor = await serve()

    for _ in range(2):
        await predictor.infer(ask("m", x=X), Call())

    assert counts(predictor) == (0, 0, 2)
    assert predictor.repository.resolve("m", "").response_cache is None


def test_what_was_not_asked_for_longest_goes_first() -> None:
    """The bound holds for bytes with their overhead; a look-up counts as use."""
    one = answer().ByteSize() + ENTRY_OVERHEAD_BYTES
    cache = ResponseCache(max_bytes=2 * one)
    cache.put(b"a", answer())
    cache.put(b"b", answer())
    cache.get(b"a")

    cache.put(b"c", answer())

    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert (len(cache), cache.evictions) == (2, 1)
    assert cache.size_bytes <= cache.max_bytes


def test_an_answer_larger_than_the_bound_is_not_kept() -> None:
    """It would only drive out all others."""
    cache = ResponseCache(max_bytes=1000)
    cache.put(b"small", answer())

    cache.put(b"large", answer(1000))

    assert cache.get(b"large") is None
    assert cache.get(b"small") is not None


def test_the_same_key_twice_is_counted_once() -> None:
    """Equal requests that ran at the same time both put their answer."""
    cache = ResponseCache(max_bytes=10_000)

    cache.put(b"a", answer())
    size = cache.size_bytes
    cache.put(b"a", answer())

    assert (len(cache), cache.size_bytes, cache.evictions) == (1, size, 0)
