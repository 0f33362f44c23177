"""Calls under way: large ones, many, cancelled, reset; and what is left when a backend is closed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest

from infermesh.call import Call
from infermesh.config import BackendConfig
from infermesh.errors import Unavailable, Unimplemented
from infermesh.filters import Retry, RetryBudget
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.transport import RemoteService
from tests.unit.transport.endpoint_parts import REQUEST, Names, Strange, ask, soon


async def test_closing_leaves_no_task_behind(serve: Any) -> None:
    """Followers, probes and look-ups end with their owner."""
    running = await serve()
    before = len(asyncio.all_tasks())
    names = Names(running.target)
    backend = RemoteService(BackendConfig(target="models.test:1"), "backend", resolver=names)
    await ask(backend)

    await backend.close()
    await asyncio.sleep(0.01)

    assert len(asyncio.all_tasks()) <= before
    with pytest.raises(Unavailable, match="its channel was closed"):
        await ask(backend)


async def test_calls_that_are_cancelled_leave_nothing_under_way(serve: Any, scripted: Any, remote: Any) -> None:
    """The server's work is cancelled, and the balancer counts no call as under way for ever."""
    never = asyncio.Event()

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await never.wait()
        return pb.ModelInferResponse()

    running = await serve(scripted(answer))
    backend, _ = remote(running.target)
    calls = [asyncio.ensure_future(ask(backend, 30)) for _ in range(50)]
    async with asyncio.timeout(10):
        while len(running.service.calls) < 50:
            await asyncio.sleep(0.002)

    for each in calls:
        each.cancel()
    await asyncio.wait(calls)

    async with asyncio.timeout(10):
        while running.service.cancelled < 50:
            await asyncio.sleep(0.002)
    (endpoint,) = backend._endpoints._all.values()
    assert endpoint.in_flight == 0


async def test_64_mib_are_tried_again_elsewhere(serve: Any, remote: Any, strange: Strange) -> None:
    """A message of any size has its second attempt: the request is kept until its call has ended."""

    async def gone(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return b""

    strange.answer = gone
    running = await serve(max_message="65MiB")
    targets = [strange.target, running.target]
    backend, watched = remote(targets, max_message="65MiB", breaker={"mode": "off"})
    request = pb.ModelInferRequest(model_name="m", id="7", raw_input_contents=[bytes(64 * 2**20)])
    async with asyncio.timeout(20):
        while watched.now != (2, 0, 0):
            with suppress(Unimplemented):
                await backend.ready()
            await asyncio.sleep(0.005)
    seen: list[str] = []
    retry = Retry(3, RetryBudget(0.2, 3), seen.append)

    for _ in range(2):  # one of the two begins at the strange one
        answer = await retry(request, soon(30), backend.infer)
        assert answer.id == "7"

    assert seen == ["retried"]
    assert len(running.service.requests[-1].raw_input_contents[0]) == 64 * 2**20


async def test_a_thousand_calls_over_one_connection_are_all_answered(serve: Any, scripted: Any, remote: Any) -> None:
    """They wait together on one channel, and none crosses another."""
    go = asyncio.Event()

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await go.wait()
        return pb.ModelInferResponse(id=request.id)

    running = await serve(scripted(answer))
    backend, _ = remote(running.target)
    asked = [pb.ModelInferRequest(model_name="m", id=str(at)) for at in range(1000)]
    calls = [asyncio.ensure_future(backend.infer(each, soon(60))) for each in asked]
    async with asyncio.timeout(30):
        while len(running.service.calls) < 1000:
            await asyncio.sleep(0.01)
    go.set()

    assert [each.id for each in await asyncio.gather(*calls)] == [each.id for each in asked]


async def test_a_megabyte_of_metadata_is_refused_and_the_next_call_served(serve: Any) -> None:
    """It ends that call with RESOURCE_EXHAUSTED, and neither the server nor other calls on the connection."""
    running = await serve()

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.stub.ModelInfer(REQUEST, metadata=[("x-large", "x" * 2**20)], timeout=10)

    assert refused.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    assert (await running.stub.ModelInfer(REQUEST, timeout=10)).id == "7"


async def test_a_connection_that_is_reset_mid_call_is_unavailable_and_comes_back(remote: Any, strange: Strange) -> None:
    """A stream that a server resets and a call that it ends are both safe to make again, and the channel goes on."""

    async def ended(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.CANCELLED, "")
        return b""

    strange.answer = ended
    backend, _ = remote(strange.target)
    with pytest.raises(Unavailable):
        await ask(backend)
    strange.answer = strange.echo

    assert (await ask(backend)).id == "7"
