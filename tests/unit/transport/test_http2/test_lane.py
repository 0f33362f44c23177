"""Inferences over a connection of their own, between a RemoteService and a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.config import BackendConfig
from infermesh.deadline import Deadline
from infermesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    MeshError,
    Quota,
    ResourceExhausted,
    Unavailable,
)
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.transport import RemoteService

REQUEST = pb.ModelInferRequest(model_name="m", id="7")
WINDOW = 0xFFFF  # that a connection begins with

Connect = Callable[[Any], Awaitable[RemoteService]]


def is_over_its_own(call: Call) -> bool:
    """Whether the call came over a connection of inferences; grpc's own names itself otherwise."""
    return call.metadata["user-agent"].startswith("infermesh/")


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """`await connect(running)`: a RemoteService over whose own connection inferences go from now on."""
    made: list[RemoteService] = []

    async def start(running: Any) -> RemoteService:
        remote = RemoteService(BackendConfig(target=running.target, via="http2"), "backend")
        made.append(remote)
        await until_its_own(running, remote)
        return remote

    yield start
    for each in made:
        await each.close()


async def until_its_own(running: Any, remote: RemoteService) -> None:
    answer, running.service.answer = running.service.answer, None
    async with asyncio.timeout(10):
        while not (running.service.calls and is_over_its_own(running.service.calls[-1])):
            await ask(remote)
    running.service.answer = answer
    running.service.calls.clear()


async def ask(remote: RemoteService, seconds: float = 10.0, request: Any = REQUEST) -> pb.ModelInferResponse:
    return await remote.infer(request, Call(deadline=Deadline.after(seconds), request_id="r1"))


async def test_the_first_calls_wait_for_nothing_and_later_ones_cost_less(serve: Any) -> None:
    """While there is no connection of its own, inferences go over grpc's."""
    running = await serve()
    remote = RemoteService(BackendConfig(target=running.target, via="http2"), "backend")

    first = await ask(remote)
    over = is_over_its_own(running.service.calls[0])
    await until_its_own(running, remote)

    assert first.id == "7"
    assert not over
    assert (await remote.metadata(pb.ModelMetadataRequest(name="m"), Call())).name == "m"
    await remote.close()


async def test_without_the_setting_there_is_no_second_connection(serve: Any) -> None:
    """grpc's channel carries all."""
    running = await serve()

    for _ in range(5):
        await ask(running.remote)

    assert not any(map(is_over_its_own, running.service.calls))


ERRORS: list[MeshError] = [
    FailedPrecondition('feature "ä" is missing', reason="FEATURE_MISSING"),
    Unavailable("away", reason="STARTING", rejected=True, retry_after_s=1.5),
    ResourceExhausted("too often", reason="RATE_LIMITED", rejected=True, retry_after_s=0.5).limited_by(
        Quota("rule:one", 10, 0, 3.0)
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: each.code)
async def test_an_error_is_the_same_as_over_grpc(serve: Any, connect: Connect, error: MeshError) -> None:
    """Class, text, reason, hop, whether work was begun, when to come back, and the limit."""

    async def fail(request: Any, call: Call) -> Any:
        raise error

    running = await serve()
    remote = await connect(running)
    running.service.answer = fail

    def told(raised: MeshError) -> tuple[Any, ...]:
        quota = raised.quota and (raised.quota.subject, raised.quota.limit, raised.quota.remaining)
        known = raised.message, raised.reason, raised.hop, raised.rejected, raised.retry_after_s, raised.endpoint
        return type(raised), quota, *known

    with pytest.raises(MeshError) as own:
        await ask(remote)
    with pytest.raises(MeshError) as of_grpc:
        await ask(running.remote)

    assert list(map(is_over_its_own, running.service.calls)) == [True, False]
    assert told(own.value) == told(of_grpc.value)
    assert own.value.reason == error.reason


async def test_what_travels_beside_a_call_arrives(serve: Any, connect: Connect) -> None:
    """Request id, variant, tenant and trace, and the deadline, less a margin."""
    running = await serve()
    remote = await connect(running)
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    call = Call(deadline=Deadline.after(10), request_id="r" * 128, variant="grün 1%", trace=trace, attempt=2)

    await remote.infer(REQUEST, call)

    (came,) = running.service.calls
    assert (came.request_id, came.variant, came.trace, came.attempt) == (call.request_id, call.variant, trace, 2)
    assert 9 < came.deadline.remaining() < 10


async def test_a_caller_who_goes_ends_the_work(
    serve: Any, connect: Connect, eventually: Callable[[Callable[[], bool]], Awaitable[None]]
) -> None:
    """Cancelled here, cancelled there; and at the deadline too, as DEADLINE_EXCEEDED."""
    started = asyncio.Event()

    async def hang(request: Any, call: Call) -> Any:
        started.set()
        await asyncio.Event().wait()

    running = await serve()
    remote = await connect(running)
    running.service.answer = hang
    left = asyncio.ensure_future(ask(remote))
    await started.wait()

    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    with pytest.raises(DeadlineExceeded):
        await ask(remote, 0.1)

    await eventually(lambda: running.service.cancelled == 2)
    assert all(map(is_over_its_own, running.service.calls))


async def test_what_is_too_long_to_be_sent_at_once_goes_over_grpc(serve: Any, connect: Connect) -> None:
    """A request may be of any size; an answer too, and that comes over the one connection or the other."""

    async def echo(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return pb.ModelInferResponse(model_name="m", id="7", raw_output_contents=[bytes(9 << 20)])

    running = await serve()
    remote = await connect(running)
    running.service.answer = echo
    large = pb.ModelInferRequest(model_name="m", id="7", raw_input_contents=[bytes(20 << 20)])

    answers = [await ask(remote), await ask(remote, request=large)]

    assert [len(each.raw_output_contents[0]) for each in answers] == [9 << 20] * 2
    assert list(map(is_over_its_own, running.service.calls)) == [True, False]
    assert len(running.service.requests[-1].raw_input_contents[0]) == 20 << 20


async def test_calls_under_way_together_get_their_own_answers(serve: Any, connect: Connect) -> None:
    """A hundred ids never cross, in whatever order they are answered."""
    waiting: list[asyncio.Event] = []

    async def reversed_order(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        waiting.append(mine := asyncio.Event())
        if len(waiting) == 100:
            for each in reversed(waiting):
                each.set()
                await asyncio.sleep(0)
        await mine.wait()
        return pb.ModelInferResponse(model_name="m", id=request.id)

    running = await serve()
    remote = await connect(running)
    running.service.answer = reversed_order
    requests = [pb.ModelInferRequest(model_name="m", id=str(each)) for each in range(100)]

    answers = await asyncio.gather(*(ask(remote, request=each) for each in requests))

    assert [each.id for each in answers] == [each.id for each in requests]
    assert all(map(is_over_its_own, running.service.calls))


async def test_what_is_not_ready_is_not_called(
    serve: Any, connect: Connect, eventually: Callable[[Callable[[], bool]], Awaitable[None]]
) -> None:
    """A replica that drains gets no call over this connection either."""
    running = await serve()
    remote = await connect(running)
    (endpoint,) = remote._endpoints._all.values()

    await running.server.set_ready(False)
    await eventually(lambda: not endpoint.is_ready)

    with pytest.raises(Unavailable) as refused:
        await ask(remote)
    assert refused.value.rejected
    assert not running.service.calls


async def test_a_server_that_stops_answers_what_it_has(serve: Any, connect: Connect) -> None:
    """And takes nothing new: that is refused as not begun, or ends as UNAVAILABLE."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, call: Call) -> pb.ModelInferResponse:
        started.set()
        await go_on.wait()
        return pb.ModelInferResponse(model_name="m", id="7")

    running = await serve()
    remote = await connect(running)
    running.service.answer = slow
    under_way = asyncio.ensure_future(ask(remote))
    await started.wait()

    stopping = asyncio.ensure_future(running.server.stop(10))
    async with asyncio.timeout(10):
        while True:  # until the news of the end is here
            try:
                await ask(remote, 0.2)
            except Unavailable:
                break
            except DeadlineExceeded:
                continue
    go_on.set()

    assert (await under_way).id == "7"
    await stopping


async def test_closing_ends_the_calls_as_unavailable(serve: Any, connect: Connect) -> None:
    """Nobody waits for an answer that can't come any more."""
    started = asyncio.Event()

    async def hang(request: Any, call: Call) -> Any:
        started.set()
        await asyncio.Event().wait()

    running = await serve()
    remote = await connect(running)
    running.service.answer = hang
    under_way = asyncio.ensure_future(ask(remote))
    await started.wait()

    await remote.close()

    with pytest.raises(Unavailable) as ended:
        await under_way
    assert ended.value.reason == "CHANNEL_CLOSED"
