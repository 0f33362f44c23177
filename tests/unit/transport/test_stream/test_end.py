"""How a stream ends: by its client, its server, its deadline or its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from infermesh.call import Call
from infermesh.errors import NotFound, Unavailable
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import InferenceService
from tests.unit.transport.stream_parts import Worker, answers_of


@pytest.mark.parametrize("waiting_for", ["an answer", "a request", "a place in the queue", "its turn to write"])
@pytest.mark.usefixtures("no_task_left")
async def test_closing_it_ends_all_work(waiting_for: str) -> None:
    """Wherever it is when the caller goes away, every worker is cancelled and no task is left."""
    worker = Worker()
    if waiting_for == "an answer":
        worker.gates = {"0": asyncio.Event(), "1": asyncio.Event()}
    if waiting_for in ("a place in the queue", "its turn to write"):
        worker.answers = 100

    async def sent() -> AsyncIterator[Any]:
        yield ModelInferRequest(id="0")
        if waiting_for == "a place in the queue":
            for number in range(100):
                yield ModelInferRequest(id=str(number))
        yield ModelInferRequest(id="1")
        if waiting_for != "its turn to write":
            await asyncio.Event().wait()

    async def follow(answers: AsyncGenerator[Any, None], taken: list[Any]) -> None:
        async with aclosing(answers):
            async for answer in answers:
                taken.append(answer)
                if waiting_for in ("a place in the queue", "its turn to write"):
                    await asyncio.Event().wait()

    task = asyncio.ensure_future(follow(answers_of(sent(), worker), taken := []))
    for _ in range(200):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert worker.begun and worker.working == 0
    assert bool(taken) == (waiting_for != "an answer")


@pytest.mark.usefixtures("no_task_left")
async def test_when_the_server_leaves_what_was_read_is_answered() -> None:
    """No more is read, and the stream ends after the answers that it owes."""
    worker, leaving = Worker(), asyncio.Event()
    worker.gates["0"] = asyncio.Event()

    async def sent() -> AsyncIterator[Any]:
        yield ModelInferRequest(id="0")
        await asyncio.Event().wait()

    answers = answers_of(sent(), worker, leaving)
    first = asyncio.ensure_future(anext(answers))
    while not worker.begun:
        await asyncio.sleep(0)

    leaving.set()
    worker.gates["0"].set()

    assert (await first).infer_response.id == "0"
    with pytest.raises(Unavailable, match="here: this replica is leaving"):
        await anext(answers)


@pytest.mark.usefixtures("no_task_left")
async def test_a_stream_that_is_wholly_answered_ends_well_when_the_server_leaves() -> None:
    """A caller who has said all and heard all is not told that something went wrong."""
    worker, leaving = Worker(), asyncio.Event()
    worker.gates["0"] = asyncio.Event()
    ended = asyncio.Event()

    async def sent() -> AsyncIterator[Any]:
        yield ModelInferRequest(id="0")
        ended.set()

    answers = answers_of(sent(), worker, leaving)
    first = asyncio.ensure_future(anext(answers))
    await ended.wait()

    leaving.set()
    worker.gates["0"].set()

    assert (await first).infer_response.id == "0"
    assert [a async for a in answers] == []


@pytest.mark.usefixtures("no_task_left")
async def test_an_end_that_is_on_its_way_when_the_server_leaves_is_seen() -> None:
    """The last message and the end of a stream arrive one after the other."""
    worker, leaving = Worker(), asyncio.Event()

    async def sent() -> AsyncIterator[Any]:
        yield ModelInferRequest(id="0")
        leaving.set()
        await asyncio.sleep(0.005)

    assert [a.infer_response.id async for a in answers_of(sent(), worker, leaving)] == ["0"]


@pytest.mark.parametrize("half_closed", [True, False])
async def test_a_leaving_server_says_so_to_those_who_would_send_more(
    serve: Any, scripted: Any, half_closed: bool
) -> None:
    """Over a real channel: UNAVAILABLE from the hop that leaves, after the answers; nothing of it after the client's end."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def answer(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        begun.set()
        await go.wait()
        return ModelInferResponse(id=request.id)

    running = await serve(scripted(answer))
    stream = running.stub.ModelStreamInfer()
    await stream.write(ModelInferRequest(id="1"))
    if half_closed:
        await stream.done_writing()
    await begun.wait()

    stopping = asyncio.ensure_future(running.server.stop(5))
    await asyncio.sleep(0)
    go.set()

    assert (await stream.read()).infer_response.id == "1"
    if half_closed:
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
    else:
        with pytest.raises(grpc.aio.AioRpcError, match="tested: this replica is leaving") as error:
            await stream.read()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(error.value.trailing_metadata())["x-infermesh-hop"] == "tested"
    await stopping


@pytest.mark.usefixtures("no_task_left")
async def test_reading_that_is_cancelled_from_below_ends_the_stream() -> None:
    """Nobody waits for requests that will never come."""

    async def sent() -> AsyncIterator[Any]:
        yield ModelInferRequest(id="0")
        raise asyncio.CancelledError

    answers = answers_of(sent(), Worker())
    async with asyncio.timeout(5):
        assert (await anext(answers)).infer_response.id == "0"
        with pytest.raises(asyncio.CancelledError):
            await anext(answers)


async def test_open_streams_are_bounded(serve: Any, scripted: Any) -> None:
    """One stream more than the bound is refused at once with a pushback; a place that is free again is used."""
    running = await serve(scripted(), max_streams=2)
    streams = [running.stub.ModelStreamInfer() for _ in range(2)]
    for stream in streams:
        await stream.write(ModelInferRequest(id="1"))
        await stream.read()

    refused = running.stub.ModelStreamInfer()
    assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 streams are open" in await refused.details()
    assert dict(await refused.trailing_metadata())["grpc-retry-pushback-ms"] == "100"

    await streams[0].done_writing()
    assert await streams[0].read() is grpc.aio.EOF
    await streams[0].code()
    again = running.stub.ModelStreamInfer()
    await again.write(ModelInferRequest(id="2"))
    assert (await again.read()).infer_response.id == "2"


@pytest.mark.usefixtures("no_task_left")
async def test_a_connection_that_breaks_ends_the_stream() -> None:
    """An error while reading is raised after what was read is answered, and nothing waits for ever."""

    async def sent() -> AsyncIterator[Any]:
        yield ModelInferRequest(id="0")
        raise ConnectionError("gone")

    answers = answers_of(sent(), Worker())

    async with asyncio.timeout(5):
        assert (await anext(answers)).infer_response.id == "0"
        with pytest.raises(ConnectionError, match="gone"):
            await anext(answers)


class Endless(InferenceService):
    """Streams answers until it is told to stop."""

    def __init__(self) -> None:
        self.open = 0
        self.begun = 0

    async def infer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        return ModelInferResponse(id=request.id)

    async def stream(self, request: ModelInferRequest, call: Call) -> AsyncIterator[ModelInferResponse]:
        self.open += 1
        self.begun += 1
        try:
            while True:
                yield ModelInferResponse(id=request.id, raw_output_contents=[bytes(50_000)])
                await asyncio.sleep(0)
        finally:
            self.open -= 1

    async def metadata(self, request: Any, call: Call) -> Any:
        raise NotFound("none")

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True


@pytest.mark.parametrize("reads", [0, 1, 20])
async def test_a_client_who_goes_away_ends_the_work_on_the_server(
    serve: Any, eventually: Callable[[Callable[[], bool]], Awaitable[None]], reads: int
) -> None:
    """Over a real channel too: whether the client read nothing, a little, or stopped in the middle, the service's stream ends."""
    service = Endless()
    running = await serve(service)
    stream = running.stub.ModelStreamInfer()
    await stream.write(ModelInferRequest(id="1"))
    await eventually(lambda: service.begun == 1)
    for _ in range(reads):
        await stream.read()

    stream.cancel()

    await eventually(lambda: service.open == 0)
    await eventually(lambda: running.server.in_flight == 0)


async def test_a_deadline_ends_a_stream_on_both_sides(serve: Any, eventually: Any) -> None:
    """The client hears DEADLINE_EXCEEDED, and the service's stream is closed."""
    service = Endless()
    running = await serve(service)
    stream = running.stub.ModelStreamInfer(timeout=0.1)
    await stream.write(ModelInferRequest(id="1"))

    with pytest.raises(grpc.aio.AioRpcError) as error:
        async for _ in stream:
            pass

    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: service.open == 0)
