"""Callers who mean harm, or know no better, at a real gateway: they are refused cleanly, and others are served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio
from e2e_door import CALLER, KEY
from e2e_gateway import Backend, Gateway, resident_bytes, serving
from e2e_wire import DATA, FRAME_HEAD, RawCaller, frame

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUEST = pb.ModelInferRequest(model_name="m", id="7")
ASKED = REQUEST.SerializeToString()
PLACES = 64
WAITING = 2000
MIB = 1 << 20
RESOURCE_EXHAUSTED, INTERNAL, UNAUTHENTICATED = 8, 13, 16


@dataclass
class Running:
    """A gateway before one backend, and a well-behaved caller."""

    gateway: Gateway
    backend: Backend
    stub: Any

    def refused(self) -> float:
        """How many calls were, because of the bound."""
        return self.gateway.sample("infermesh_requests_total", code="RESOURCE_EXHAUSTED")

    async def good(self) -> None:
        """Fail unless an ordinary call is served."""
        assert (await self.stub.ModelInfer(REQUEST, metadata=CALLER, timeout=20)).id == "7"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One process for all tests here: each must leave it as it was, which is what they are about."""
    backend = Backend()
    async with serving(backend) as address:
        folder, routes = tmp_path_factory.mktemp("gateway"), [{"model": "m", "backend": "one"}]
        async with (
            Gateway(folder, {"one": address}, routes, server={"max_in_flight": PLACES}) as gateway,
            grpc.aio.insecure_channel(gateway.address) as channel,
        ):
            yield Running(gateway, backend, pb_grpc.GRPCInferenceServiceStub(channel))


@pytest_asyncio.fixture(loop_scope="module")
async def running(process: Running) -> Running:
    process.backend.answer = None
    await process.good()
    process.backend.calls.clear()
    process.backend.cancelled = 0
    return process


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_caller_who_does_not_read_is_bounded(running: Running) -> None:
    """Ten times the bound of calls with large answers, none of which is read: memory is that of the bound, health answers, and
    when the caller has gone others are served."""

    async def large(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return pb.ModelInferResponse(model_name="m", id=request.id, raw_output_contents=[bytes(MIB)])

    before = resident_bytes(running.gateway.pid)
    running.backend.answer = large
    with RawCaller(running.gateway.address, window=0) as slow:
        refused_before = running.refused()
        for _ in range(10 * PLACES):
            slow.call(ASKED, CALLER)
        await until(lambda: running.refused() - refused_before == 9 * PLACES)
        await until(lambda: len(running.backend.calls) == PLACES)

        assert resident_bytes(running.gateway.pid) - before < 8 * PLACES * MIB
        assert (await running.stub.ServerLive(pb.ServerLiveRequest(), timeout=20)).live

    async with asyncio.timeout(20):
        while True:
            try:
                return await running.good()
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                await asyncio.sleep(0.01)


async def test_calls_that_are_taken_back_at_once_leave_nothing(running: Running) -> None:
    """Two thousand calls, each reset with the packet that brought it, and some whose caller leaves while the backend works:
    none of them is worked on afterwards."""
    never = asyncio.Event()

    async def hang(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if request.id != REQUEST.id:
            await never.wait()
        return pb.ModelInferResponse(model_name="m", id=request.id)

    asked = pb.ModelInferRequest(model_name="m", id="hang").SerializeToString()
    running.backend.answer = hang
    with RawCaller(running.gateway.address) as rapid:
        waiting = [rapid.call(asked, CALLER) for _ in range(10)]
        await until(lambda: len(running.backend.calls) == len(waiting))
        for _ in range(2000):
            rapid.call(asked, CALLER, reset=True)
    await running.good()

    await until(lambda: running.backend.cancelled == len(running.backend.calls) - 1 >= len(waiting))


async def test_no_call_is_dropped_while_the_loop_is_busy() -> None:
    """By itself grpc's core lets a thousand wait that Python has not seen, and ends others at random: CANCELLED, to anybody."""
    with ExitStack() as callers:
        async with serving(Backend()) as address:
            one, other = (callers.enter_context(RawCaller(address)) for _ in range(2))
            for caller in (one, other):
                for _ in range(WAITING):
                    caller.call(ASKED)
                caller.settle()  # the loop is ours until here
            ended = [await asyncio.to_thread(caller.statuses, WAITING) for caller in (one, other)]

    assert ended == [{0: WAITING}] * 2


@pytest.mark.parametrize("size", [20_000, MIB])
async def test_metadata_past_the_limit_ends_its_call_alone(running: Running, size: int) -> None:
    """It is RESOURCE_EXHAUSTED, or the stream is reset; calls before and after it on the connection are answered."""
    hold = asyncio.Event()

    async def wait(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await hold.wait()
        return pb.ModelInferResponse(model_name="m", id=request.id)

    running.backend.answer = wait
    with RawCaller(running.gateway.address) as caller:
        before = caller.call(ASKED, CALLER)
        await until(lambda: len(running.backend.calls) == 1)
        refused = caller.call(ASKED, [*CALLER, ("x-large", "x" * size)])
        status = await asyncio.to_thread(caller.status, refused)
        hold.set()
        answered = await asyncio.to_thread(caller.status, before)
        after = await asyncio.to_thread(caller.status, caller.call(ASKED, CALLER))

    assert status == RESOURCE_EXHAUSTED
    assert (answered, after) == (0, 0)
    await running.good()


INJECTED: dict[str, list[tuple[str | bytes, str | bytes]]] = {
    "a line break": [("x-request-id", "a\r\nx-infermesh-tenant: evil")],
    "a nul": [("x-request-id", "a\x00b")],
    "a line break in the tenant": [("x-infermesh-tenant", "evil\r\nx: y")],
    "a line break in a trace": [("traceparent", "00-\r\n"), ("baggage", "a=b\r\nx-infermesh-shadow: 1")],
    "bytes that are no ASCII": [("x-request-id", b"\xff\xfe"), ("baggage", b"k=\xff")],
    "a name in capitals": [("X-Infermesh-Tenant", "evil")],
    "a name with a line break": [("x-a\r\nx-infermesh-tenant", "evil")],
    "keys of the mesh": [
        ("x-infermesh-tenant", "evil"), ("x-infermesh-shadow", "1"), ("x-infermesh-attempt", "9"),
        ("x-infermesh-variant", "default"), ("x-infermesh-other", "evil"),
    ],
    "binary keys of the mesh": [("x-infermesh-tenant-bin", "ZXZpbA"), ("x-infermesh-tenant", "evil")],
    "binary that is no base64": [("x-data-bin", "!!!")],
    "credentials": [("authorization", f"Bearer {KEY}"), ("cookie", "a=b"), ("proxy-authorization", "Basic eA==")],
}  # fmt: skip


NOT_HEADERS = (
    "a name in capitals",
    "a name with a line break",
    "binary that is no base64",
)  # grpc itself ends those calls
PASSED_ON = {"user-agent", "x-request-id", "x-infermesh-variant", "x-infermesh-tenant", "x-infermesh-gateways"}


@pytest.mark.parametrize("kind", INJECTED)
async def test_what_a_caller_injects_reaches_no_hop(running: Running, kind: str) -> None:
    """The backend sees what the gateway says of tenant, variant and request, and nothing of what was injected."""
    with RawCaller(running.gateway.address) as caller:
        status = await asyncio.to_thread(caller.status, caller.call(ASKED, [*CALLER, *INJECTED[kind]]))

    if kind in NOT_HEADERS:
        assert (status, running.backend.calls) == (INTERNAL, [])
    else:
        (call,) = running.backend.calls
        assert status == 0
        assert set(call.metadata) == PASSED_ON
        assert (call.caller.tenant, call.variant, call.shadow, call.attempt) == ("demo", "default", False, 1)
        assert call.request_id.isalnum() and call.trace == {}
        assert not [value for value in call.metadata.values() if "evil" in value or KEY in value or "\n" in value]
    await running.good()


async def test_of_several_keys_the_first_counts(running: Running) -> None:
    """A good key after a bad one helps nobody, and what is refused reaches no backend."""
    with RawCaller(running.gateway.address) as caller:
        statuses = [
            await asyncio.to_thread(caller.status, caller.call(ASKED, [("x-api-key", key) for key in keys]))
            for keys in (("bad", KEY), (KEY, "bad"), ("bad\r\nx-api-key: " + KEY,))
        ]

    assert statuses == [UNAUTHENTICATED, 0, UNAUTHENTICATED]
    assert len(running.backend.calls) == 1


@pytest.mark.parametrize(
    "kind", ["http/1.1", "a frame of 16 MiB", "half a message", "a message of 4 GiB", "data for no call"]
)
async def test_bytes_that_are_no_call_harm_nobody(running: Running, kind: str) -> None:
    """Connections that speak something else, end in the middle of a message or claim a huge one: nothing reaches the backend."""
    with RawCaller(running.gateway.address) as caller:
        stream, data = caller.begin(ASKED, CALLER)
        head, body = data[: -len(ASKED) - 5], len(ASKED) + 5
        huge = frame(DATA, 1, stream, b"\x00\xff\xff\xff\xff" + bytes(100))
        sent = {
            "http/1.1": b"GET / HTTP/1.1\r\n\r\n" * 100,
            "a frame of 16 MiB": b"\xff\xff\xff" + bytes(6),
            "half a message": data[:-3],
            "a message of 4 GiB": head[:-FRAME_HEAD] + huge,
            "data for no call": frame(DATA, 1, 99, bytes(body)),
        }[kind]
        caller.send(sent)
        await running.good()
        if kind == "a message of 4 GiB":
            assert await asyncio.to_thread(caller.status, stream) == RESOURCE_EXHAUSTED

    await running.good()
    assert len(running.backend.calls) == 2  # the good ones
