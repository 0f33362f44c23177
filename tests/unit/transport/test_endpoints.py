"""Which address a call goes to: names that change, addresses that fail, and breakers that leave them out."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from infermesh.call import Call
from infermesh.config import BackendConfig
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, Internal, MeshError, Unavailable, Unimplemented
from infermesh.filters import Retry, RetryBudget
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.transport import RemoteService

REQUEST = pb.ModelInferRequest(model_name="m", id="7")
QUICK = {"failures": 3, "backoff": "50ms", "max_backoff": "100ms", "patience": "50ms"}


class Names:
    """DNS as a test wants it."""

    changes = True

    def __init__(self, *addresses: str) -> None:
        self.addresses = sorted(addresses)
        self.error: OSError | None = None
        self.asked = 0

    async def resolve(self) -> list[str]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.addresses


class Watched:
    """What was told of the endpoints."""

    def __init__(self) -> None:
        self.now = (0, 0, 0)
        self.changes: list[str] = []
        self.look_ups: list[bool] = []

    def endpoints(self, ready: int, ejected: int, away: int) -> None:
        self.now = (ready, ejected, away)

    def breaker(self, change: str) -> None:
        self.changes.append(change)

    def resolved(self, good: bool) -> None:
        self.look_ups.append(good)


@pytest.fixture
async def remote() -> AsyncIterator[Callable[..., tuple[RemoteService, Watched]]]:
    async with AsyncExitStack() as resources:

        def make(target: Any, resolver: Any = None, **config: Any) -> tuple[RemoteService, Watched]:
            watched = Watched()
            settings = BackendConfig.model_validate({"target": target, **config})
            made = RemoteService(settings, "backend", resolver=resolver, observe=watched)
            resources.push_async_callback(made.close)
            return made, watched

        yield make


def soon(seconds: float = 5.0, tried: tuple[str, ...] = ()) -> Call:
    return Call(deadline=Deadline.after(seconds), tried=tried)


async def ask(backend: RemoteService, seconds: float = 5.0) -> pb.ModelInferResponse:
    return await backend.infer(REQUEST, soon(seconds))


class Strange:
    """A gRPC server without a health service that answers ModelInfer as a test says; `port` is its own."""

    def __init__(self) -> None:
        self.answer: Callable[[bytes, Any], Any] = self.echo
        self.asked = 0
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        method = grpc.unary_unary_rpc_method_handler(self._infer)
        handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})
        self._server.add_generic_rpc_handlers((handler,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def _infer(self, request: bytes, context: Any) -> bytes:
        self.asked += 1
        result: bytes = await self.answer(request, context)
        return result

    async def echo(self, request: bytes, context: Any) -> bytes:
        asked = pb.ModelInferRequest.FromString(request)
        return pb.ModelInferResponse(model_name=asked.model_name, id=asked.id).SerializeToString()

    async def __aenter__(self) -> Strange:
        await self._server.start()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._server.stop(0)


@pytest.fixture
async def strange() -> AsyncIterator[Strange]:
    async with Strange() as server:
        yield server


async def test_each_address_gets_its_turn(serve: Any, remote: Any) -> None:
    """Round robin over all addresses that are ready."""
    servers = [await serve() for _ in range(3)]
    backend, watched = remote([each.target for each in servers])
    async with asyncio.timeout(5):
        while watched.now != (3, 0, 0):
            await ask(backend)
    before = [len(each.service.calls) for each in servers]

    for _ in range(30):
        await ask(backend)

    assert [len(each.service.calls) - was for each, was in zip(servers, before, strict=True)] == [10, 10, 10]


async def test_of_two_that_are_drawn_the_less_busy_is_taken(serve: Any, scripted: Any, remote: Any) -> None:
    """With p2c an address that answers slowly gets fewer calls."""
    go = asyncio.Event()

    async def slow(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await go.wait()
        return pb.ModelInferResponse()

    one, other = await serve(scripted(slow)), await serve()
    backend, watched = remote([one.target, other.target], balance="p2c")
    waiting = [asyncio.ensure_future(ask(backend, 20))]
    async with asyncio.timeout(5):
        while watched.now != (2, 0, 0) or not one.service.calls:
            waiting.append(asyncio.ensure_future(ask(backend, 20)))
            await asyncio.sleep(0.005)
    before = len(one.service.calls)

    for _ in range(40):
        await ask(backend)

    assert len(one.service.calls) == before
    go.set()
    await asyncio.gather(*waiting)


async def test_what_was_tried_is_asked_last(serve: Any, remote: Any) -> None:
    """Another attempt goes to another address while there is one, else to the same."""
    one, other = await serve(), await serve()
    backend, watched = remote([one.target, other.target])
    async with asyncio.timeout(5):
        while watched.now != (2, 0, 0):
            await ask(backend)
    before = len(one.service.calls)

    for _ in range(10):
        await backend.infer(REQUEST, soon(tried=(one.target,)))

    assert len(one.service.calls) == before
    await backend.infer(REQUEST, soon(tried=(one.target, other.target)))


async def test_a_name_that_changes_moves_the_calls(serve: Any, remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """New addresses are used, those that are gone get nothing more, and what they had under way is answered."""
    monkeypatch.setattr("infermesh.transport.endpoints.RESOLVE_AGAIN_S", 0.01)
    one, other = await serve(), await serve()
    names = Names(one.target)
    backend, watched = remote("models.test:8001", names, resolve_every="20ms")
    go = asyncio.Event()

    async def held(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await go.wait()
        return pb.ModelInferResponse(id="7")

    one.service.answer = held
    under_way = asyncio.ensure_future(ask(backend))
    async with asyncio.timeout(5):
        while not one.service.calls:
            await asyncio.sleep(0.001)

    names.addresses = [other.target]
    async with asyncio.timeout(5):
        while not other.service.calls:
            await asyncio.wait({asyncio.ensure_future(ask(backend, 0.05))})
    seen = len(one.service.calls)
    for _ in range(10):
        await ask(backend)
    go.set()

    assert (await under_way).id == "7"
    assert len(one.service.calls) == seen
    assert watched.now == (1, 0, 0)


async def test_a_name_that_can_t_be_looked_up_keeps_its_last_addresses(
    serve: Any, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS that fails takes nothing away; without any address calls are refused as not started, and work once it answers."""
    monkeypatch.setattr("infermesh.transport.endpoints.RESOLVE_AGAIN_S", 0.01)
    running, names = await serve(), Names()
    names.error = OSError("Temporary failure in name resolution")
    backend, watched = remote("models.test:8001", names, resolve_every="10ms")

    with pytest.raises(Unavailable, match=r"name resolution of models\.test:8001 failed: Temporary") as refused:
        await ask(backend)
    assert (refused.value.rejected, refused.value.hop) == (True, "backend")
    assert not await backend.ready()
    names.addresses, names.error = [running.target], None
    async with asyncio.timeout(5):
        while not await backend.ready():
            await asyncio.sleep(0.005)
    names.error = OSError("gone again")
    asked = names.asked
    async with asyncio.timeout(5):
        while names.asked < asked + 3:
            await asyncio.sleep(0.005)

    assert (await ask(backend)).id == "7"
    assert (watched.look_ups[0], watched.look_ups[-1]) == (False, False)


async def test_a_real_name_is_resolved(serve: Any, remote: Any) -> None:
    """`localhost` by the system's resolver; an address of it where nobody listens is left out."""
    running = await serve()
    backend, _ = remote(f"localhost:{running.server.port}")

    for _ in range(5):
        assert (await ask(backend)).id == "7"


async def test_a_name_that_does_not_exist_is_unavailable(remote: Any) -> None:
    """The text has the name and the system's words."""
    backend, _ = remote("no-such-host.invalid:8001")

    with pytest.raises(Unavailable, match=r"no-such-host\.invalid"):
        await ask(backend)


async def test_of_several_addresses_dead_ones_cost_no_call(serve: Any, remote: Any, unused_tcp_port: int) -> None:
    """An address where nobody ever listened fails no call, not even the first."""
    running = await serve()
    backend, watched = remote([f"127.0.0.1:{unused_tcp_port}", running.target])

    for _ in range(20):
        assert (await ask(backend)).id == "7"

    assert watched.now == (1, 0, 1)


async def test_an_address_that_keeps_failing_is_left_out_and_found_again(
    serve: Any, remote: Any, strange: Strange
) -> None:
    """Garbage opens its breaker; the others get all calls; after the pause a trial that is answered brings it back."""
    running = await serve()

    async def garbage(request: bytes, context: Any) -> bytes:
        return b"\xff\xff"

    strange.answer = garbage
    backend, watched = remote([strange.target, running.target], breaker=QUICK)
    failed = 0
    async with asyncio.timeout(5):
        while watched.now != (1, 1, 0):
            try:
                await ask(backend)
            except Internal as error:
                assert (error.reason, error.endpoint) == ("BACKEND_GARBAGE", strange.target)
                failed += 1
    assert failed == 3
    strange.answer = strange.echo

    async with asyncio.timeout(5):
        while watched.now != (2, 0, 0):
            await ask(backend)
            await asyncio.sleep(0.002)

    assert watched.changes[0] == "opened"
    assert watched.changes[-2:] == ["half_opened", "closed"]


async def test_the_last_endpoint_is_never_left_out(remote: Any, strange: Strange) -> None:
    """However it fails, it goes on being asked: its failures are told, and its first good answer too."""

    async def garbage(request: bytes, context: Any) -> bytes:
        return b"\xff\xff"

    strange.answer = garbage
    backend, watched = remote(strange.target, breaker=QUICK)
    for _ in range(20):
        with pytest.raises(Internal):
            await ask(backend)
    assert watched.now == (0, 1, 0)
    strange.answer = strange.echo

    assert (await ask(backend)).id == "7"


async def test_observing_leaves_nothing_out(serve: Any, remote: Any, strange: Strange) -> None:
    """In observe mode the breaker opens, is counted, and the address keeps its share."""
    running = await serve()

    async def garbage(request: bytes, context: Any) -> bytes:
        return b"\xff\xff"

    strange.answer = garbage
    backend, watched = remote([strange.target, running.target], breaker={**QUICK, "mode": "observe", "backoff": "1h"})
    ended: Counter[str] = Counter()
    for _ in range(60):
        try:
            await ask(backend)
            ended["OK"] += 1
        except MeshError as error:
            ended[error.code] += 1

    assert watched.changes == ["opened"]
    assert ended["INTERNAL"] > 20


@pytest.mark.parametrize(
    "answer",
    [pb.ModelInferResponse(model_name="another", id="7"), pb.ModelInferResponse(model_name="m", id="8")],
    ids=["another model", "another request"],
)
async def test_an_answer_to_another_question_is_garbage(remote: Any, strange: Strange, answer: Any) -> None:
    """What is about another model or request never reaches a caller; one that leaves both out does."""

    async def other(request: bytes, context: Any) -> bytes:
        data: bytes = answer.SerializeToString()
        return data

    backend, _ = remote(strange.target)
    strange.answer = other

    with pytest.raises(Internal, match=r"its answer is (of the model|to the request)") as error:
        await ask(backend)
    assert (error.value.reason, error.value.hop) == ("BACKEND_GARBAGE", "backend")

    answer = pb.ModelInferResponse()
    assert (await ask(backend)) == answer


async def test_a_backend_that_accepts_and_never_speaks_costs_its_calls_their_deadline(remote: Any) -> None:
    """A port behind which nobody reads: DEADLINE_EXCEEDED or UNAVAILABLE at the deadline, and nothing is left behind."""
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    backend, _ = remote(f"127.0.0.1:{port}")

    with pytest.raises((DeadlineExceeded, Unavailable)):
        await ask(backend, 0.2)

    silent.close()


async def test_a_backend_that_speaks_another_protocol_is_unavailable(remote: Any) -> None:
    """Bytes that are no HTTP/2 open no connection."""

    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(chatter, "127.0.0.1", 0)
    backend, _ = remote(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")

    with pytest.raises(Unavailable):
        await ask(backend, 2)

    server.close()


HUNG = """
import asyncio, sys
from infermesh.config import ServerConfig
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, stack
from infermesh.transport import Server

class Echo(InferenceService):
    async def infer(self, request, call):
        return pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    async def ready(self, model="", version=""):
        return True

async def main():
    server = Server("hung", ServerConfig(host="127.0.0.1", grpc_port=0), inside_mesh=True)
    await server.start()
    server.mount(stack(service=Echo()))
    await server.set_ready(True)
    print(server.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_hung_process_is_left_out_until_it_goes_on(serve: Any, remote: Any) -> None:
    """SIGSTOP leaves the connection open: a few calls end at their deadline, then the other has all; SIGCONT brings it back."""
    running = await serve()
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HUNG, stdout=subprocess.PIPE, cwd=root)
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        backend, watched = remote([f"127.0.0.1:{port}", running.target], breaker=QUICK)
        async with asyncio.timeout(10):
            while watched.now != (2, 0, 0):
                await ask(backend)
        os.kill(process.pid, signal.SIGSTOP)
        late = 0
        async with asyncio.timeout(10):
            while watched.now != (1, 1, 0):
                try:
                    await ask(backend, 0.1)
                except DeadlineExceeded:
                    late += 1
        for _ in range(20):
            await ask(backend)
        os.kill(process.pid, signal.SIGCONT)
        async with asyncio.timeout(20):
            while watched.now != (2, 0, 0):
                await ask(backend)
                await asyncio.sleep(0.005)
        assert late < 10  # three in a row; on a busy machine the other one may be late too
    finally:
        process.kill()
        await process.wait()


async def test_short_deadlines_of_some_take_an_endpoint_from_nobody(serve: Any, scripted: Any, remote: Any) -> None:
    """Calls to a slow model that run out of time, while others are answered, do not open the breaker."""

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if request.model_name == "slow":
            await asyncio.sleep(5)
        return pb.ModelInferResponse(id=request.id)

    running, other = await serve(scripted(answer)), await serve(scripted(answer))
    backend, watched = remote([running.target, other.target], breaker=QUICK)
    slow = pb.ModelInferRequest(model_name="slow")

    async def lively(ended: asyncio.Event) -> None:
        while not ended.is_set():
            await ask(backend)

    ended = asyncio.Event()
    others = asyncio.ensure_future(lively(ended))
    for _ in range(10):
        with pytest.raises(DeadlineExceeded):
            await backend.infer(slow, soon(0.06))
    ended.set()
    await others

    assert watched.changes == []


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
