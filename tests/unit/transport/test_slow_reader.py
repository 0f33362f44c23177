"""Callers who do not take their answers: what is held for them is bounded, and harms nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from e2e_wire import DATA, FRAME_HEAD, RawCaller, frame

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.transport import server
from infermesh.transport.stream import MAX_IN_FLIGHT

PLACES = 8
ASKED = pb.ModelInferRequest(model_name="m", id="7")
ANSWER_BYTES = 256 * 1024  # more than any buffer on the way to a caller whose window is shut


async def large(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(id=request.id, raw_output_contents=[bytes(ANSWER_BYTES)])


@pytest.fixture
async def running(serve: Any, scripted: Any) -> Any:
    return await serve(scripted(large), max_in_flight=PLACES)


async def test_answers_that_nobody_takes_are_bounded(running: Any, eventually: Callable[..., Any]) -> None:
    """They keep the places of their calls: past the bound calls are refused, counted, and when the caller goes all is free."""
    counted: list[tuple[str, str]] = []
    running.server._held._refused = lambda model, code: counted.append((model, code))
    with RawCaller(running.target, window=0) as slow:
        for _ in range(3 * PLACES):
            slow.call(ASKED.SerializeToString())
        await eventually(lambda: len(counted) == 2 * PLACES)

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await running.stub.ModelInfer(ASKED, timeout=10)

        assert len(running.service.calls) == PLACES
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "have not taken their answers" in refused.value.details()
        assert int(dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        assert counted == [("m", "RESOURCE_EXHAUSTED")] * (2 * PLACES + 1)
        assert (await running.stub.ServerLive(pb.ServerLiveRequest(), timeout=10)).live

    async with asyncio.timeout(10):
        while True:
            try:
                assert (await running.stub.ModelInfer(ASKED, timeout=10)).id == "7"
                return
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                await asyncio.sleep(0.005)


async def test_a_caller_who_reads_slowly_gets_its_answer(running: Any) -> None:
    """One that takes a few bytes at a time is answered whole, while others are answered at once."""
    with RawCaller(running.target, window=0) as slow:
        stream = slow.call(ASKED.SerializeToString())
        taken = b""
        while len(taken) < ANSWER_BYTES:
            slow.allow(stream, 16_384)
            assert (await running.stub.ModelInfer(ASKED, timeout=10)).id == "7"
            taken += await asyncio.to_thread(slow.data, stream, 16_384)
        slow.allow(stream, 1 << 20)

        taken += await asyncio.to_thread(slow.data, stream)

        assert pb.ModelInferResponse.FromString(taken[5:]) == await large(ASKED, Call())


async def test_a_stream_whose_answers_nobody_takes_reads_no_more_of_it(
    serve: Any, scripted: Any, eventually: Any
) -> None:
    """Of a thousand requests as many are begun as a stream may have under way, and others are served."""
    running = await serve(scripted(large))
    asked = ASKED.SerializeToString()
    with RawCaller(running.target, window=0) as slow:
        stream, data = slow.begin(asked, path="/inference.GRPCInferenceService/ModelStreamInfer")
        message = data[-len(asked) - 5 :]
        head = data[: -len(message) - FRAME_HEAD]
        slow.send(head + frame(DATA, 1, stream, message * 1000))
        await eventually(lambda: len(running.service.calls) >= MAX_IN_FLIGHT)
        for _ in range(20):
            assert (await running.stub.ModelInfer(ASKED, timeout=10)).id == "7"

        assert len(running.service.calls) - 20 <= MAX_IN_FLIGHT + 2  # one that is written, one that is read

    await eventually(lambda: running.server.in_flight == 0)


async def test_callers_who_leave_before_their_answers_are_nothing_to_log(
    running: Any, caplog: pytest.LogCaptureFixture, eventually: Callable[..., Any]
) -> None:
    """A connection that ends with answers under way ends those calls, without an error and its traceback for each."""
    caplog.set_level(logging.INFO)
    with RawCaller(running.target, window=0) as slow:
        for _ in range(PLACES):
            slow.call(ASKED.SerializeToString())
        await eventually(lambda: len(running.service.calls) == PLACES)
        await running.stub.ServerLive(pb.ServerLiveRequest(), timeout=10)  # by now their answers are with grpc

    await eventually(lambda: running.server._held.count == 0)
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_a_connection_past_its_age_does_not_wait_for_ever_for_who_reads_nothing(
    serve: Any, scripted: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its age and the longest that a call may take it is closed, and the places of its calls are free."""
    monkeypatch.setattr(server, "LONGEST_CALL_S", 0.1)
    running = await serve(scripted(large), max_in_flight=PLACES, max_connection_age="500ms")
    with RawCaller(running.target, window=0) as slow:
        for _ in range(PLACES):
            slow.call(ASKED.SerializeToString())
        await eventually(lambda: running.server._held.count == PLACES)

        await eventually(lambda: running.server._held.count == 0)
