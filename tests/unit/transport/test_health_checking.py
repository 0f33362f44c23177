"""A channel follows the health of each replica behind it, so that a drain costs no call (gRFC A17)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from infermesh.call import Call
from infermesh.config import BackendConfig
from infermesh.deadline import Deadline
from infermesh.errors import Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.transport import RemoteService

REQUEST = pb.ModelInferRequest(model_name="m", id="7")
HEARD_WITHIN_S = 0.1  # a change of health travels one way over a connection that is open; the rest is a busy machine


def remote(*targets: str) -> RemoteService:
    return RemoteService(BackendConfig(target=list(targets)), "backend")


async def ask(backend: RemoteService) -> pb.ModelInferResponse:
    return await backend.infer(REQUEST, Call(deadline=Deadline.after(5)))


async def until_ready(backend: RemoteService) -> None:
    async with asyncio.timeout(5):
        while not await backend.ready():
            await asyncio.sleep(0.002)


class Arrivals:
    """Answers after some milliseconds, and keeps when each call came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    async def __call__(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.times.append(time.monotonic())
        await asyncio.sleep(0.005)
        return pb.ModelInferResponse(id=request.id)


async def test_a_drain_costs_no_call(serve: Any, scripted: Any) -> None:
    """Under calls without a pause one of two replicas drains and stops: none fails, and none reaches it once it has said so."""
    leaves, stays = Arrivals(), Arrivals()
    leaving, staying = await serve(scripted(leaves)), await serve(scripted(stays))
    backend = remote(leaving.target, staying.target)
    under_load = True

    async def caller() -> int:
        count = 0
        while under_load:
            await ask(backend)
            count += 1
        return count

    callers = [asyncio.ensure_future(caller()) for _ in range(8)]
    async with asyncio.timeout(5):
        while len(leaves.times) < 20 or len(stays.times) < 20:
            await asyncio.sleep(0.005)
    await leaving.server.set_ready(False)
    told = time.monotonic()
    await asyncio.sleep(0.5)
    await leaving.server.stop(1)
    await asyncio.sleep(0.1)
    under_load = False
    counts = await asyncio.gather(*callers)

    assert sum(counts) == len(leaves.times) + len(stays.times)
    assert [late for late in leaves.times if late > told + HEARD_WITHIN_S] == []
    assert len([late for late in stays.times if late > told + HEARD_WITHIN_S]) > 50
    await backend.close()


async def test_a_replica_that_starts_gets_no_call_before_it_is_ready(serve: Any, scripted: Any) -> None:
    """It is left alone while it loads its models, and has its share of the calls as soon as it is ready."""
    starts, serves = Arrivals(), Arrivals()
    starting, serving = await serve(scripted(starts)), await serve(scripted(serves))
    await starting.server.set_ready(False)
    backend = remote(starting.target, serving.target)

    for _ in range(20):
        await ask(backend)
    assert (len(starts.times), len(serves.times)) == (0, 20)
    await starting.server.set_ready(True)

    async with asyncio.timeout(5):
        while len(starts.times) < 5:
            await ask(backend)
    await backend.close()


async def test_without_another_replica_the_call_is_refused_as_not_started(serve: Any) -> None:
    """A backend all of whose replicas drain or start is away: UNAVAILABLE at once, and safe to try elsewhere or again."""
    running = await serve()
    backend = remote(running.target)
    await ask(backend)
    await running.server.set_ready(False)
    async with asyncio.timeout(5):
        while await backend.ready():
            await asyncio.sleep(0.002)

    for failing in (
        ask(backend),
        anext(backend.stream(REQUEST, Call())),
        backend.index(pb.RepositoryIndexRequest(), Call()),
    ):
        with pytest.raises(Unavailable, match=r"backend: .*unhealthy") as error:
            await failing
        assert error.value.rejected
    await running.server.set_ready(True)

    await until_ready(backend)
    assert (await ask(backend)).id == "7"
    await backend.close()


async def test_calls_that_a_draining_replica_has_are_answered(serve: Any, scripted: Any, eventually: Any) -> None:
    """Leaving a replica ends nothing that is under way there."""
    go = asyncio.Event()

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await go.wait()
        return pb.ModelInferResponse(id=request.id)

    running = await serve(scripted(answer))
    backend = remote(running.target)
    calls = [asyncio.ensure_future(ask(backend)) for _ in range(5)]
    await eventually(lambda: running.server.in_flight == 5)
    await running.server.set_ready(False)
    async with asyncio.timeout(5):
        while await backend.ready():
            await asyncio.sleep(0.002)

    stopping = asyncio.ensure_future(running.server.stop(5))
    await asyncio.sleep(0.01)
    go.set()

    assert [answer.id for answer in await asyncio.gather(*calls)] == ["7"] * 5
    await stopping
    await backend.close()


async def test_a_restarted_replica_is_used_when_it_is_ready_and_not_before(serve: Any, scripted: Any) -> None:
    """The channel survives the restart, and learns of the new process's start from its health."""
    first = await serve()
    backend = remote(first.target)
    await ask(backend)
    await first.server.stop(0)
    second = await serve(grpc_port=first.server.port)
    await second.server.set_ready(False)
    async with asyncio.timeout(5):
        while True:
            with pytest.raises(Unavailable) as error:
                await ask(backend)
            if "unhealthy" in str(error.value):
                break
            await asyncio.sleep(0.01)

    await second.server.set_ready(True)

    await until_ready(backend)
    await ask(backend)
    assert len(second.service.calls) == 1
    await backend.close()


async def test_a_server_without_a_health_service_is_asked() -> None:
    """Other implementations of the protocol need not have one: they are used while they are connected."""
    server = grpc.aio.server()

    async def infer(request: bytes, context: Any) -> bytes:
        return pb.ModelInferResponse(id="7").SerializeToString()

    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    backend = remote(f"127.0.0.1:{port}")

    assert (await ask(backend)).id == "7"

    await backend.close()
    await server.stop(0)
