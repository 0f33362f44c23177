"""grpc.health.v1: Check and Watch."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
OIP = "inference.GRPCInferenceService"


@pytest.mark.parametrize(("service", "status"), [("", NOT_SERVING), (OIP, NOT_SERVING), ("live", SERVING)])
async def test_before_it_is_ready_only_the_process_is_well(serve: Any, service: str, status: int) -> None:
    """A server that has no service yet says NOT_SERVING, and SERVING for `live`."""
    running = await serve(ready=False)

    answer = await health_pb2_grpc.HealthStub(running.channel).Check(HealthCheckRequest(service=service))

    assert answer.status == status


async def test_a_service_that_nobody_knows_is_not_found(serve: Any) -> None:
    """As the protocol of health checks says."""
    running = await serve()

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await health_pb2_grpc.HealthStub(running.channel).Check(HealthCheckRequest(service="other"))

    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_who_watches_hears_of_every_turn(serve: Any) -> None:
    """A watcher is told the state at once and each change of it."""
    running = await serve()
    watch = health_pb2_grpc.HealthStub(running.channel).Watch(HealthCheckRequest(service=""))

    first = await watch.read()
    await running.server.set_ready(False)
    second = await watch.read()
    await running.server.set_ready(False)  # no change: nothing is sent
    await running.server.set_ready(True)
    third = await watch.read()

    assert [m.status for m in (first, second, third)] == [SERVING, NOT_SERVING, SERVING]


async def test_an_unknown_service_may_be_watched(serve: Any) -> None:
    """It is SERVICE_UNKNOWN until it is known."""
    running = await serve()

    answer = await health_pb2_grpc.HealthStub(running.channel).Watch(HealthCheckRequest(service="later")).read()

    assert answer.status == HealthCheckResponse.SERVICE_UNKNOWN


async def test_one_watcher_who_leaves_takes_nothing_from_the_others(serve: Any) -> None:
    """Those who go on watching the same name still hear of changes."""
    running = await serve()
    stub = health_pb2_grpc.HealthStub(running.channel)
    leaves, stays = stub.Watch(HealthCheckRequest()), stub.Watch(HealthCheckRequest())
    await leaves.read()
    await stays.read()

    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves.read()
    await running.server.set_ready(False)

    async with asyncio.timeout(5):
        assert (await stays.read()).status == NOT_SERVING


async def test_watchers_are_bounded_and_make_room_when_they_leave(serve: Any) -> None:
    """They need no credentials, so that anybody could open as many as memory lasts; who only asks is answered all the while."""
    running = await serve(max_streams=2)
    stub = health_pb2_grpc.HealthStub(running.channel)
    watching = [stub.Watch(HealthCheckRequest()) for _ in range(2)]
    for each in watching:
        await each.read()

    with pytest.raises(grpc.aio.AioRpcError, match="2 streams of this kind are open") as refused:
        await stub.Watch(HealthCheckRequest()).read()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await stub.Check(HealthCheckRequest())).status == SERVING

    watching[0].cancel()
    async with asyncio.timeout(5):
        while True:
            try:
                assert (await stub.Watch(HealthCheckRequest()).read()).status == SERVING
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_streams_of_reflection_are_bounded_too(serve: Any) -> None:
    """By a bound of their own: they take nothing from those who watch health."""
    running = await serve(max_streams=1)
    stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)

    async with AsyncExitStack() as resources:
        first = stub.ServerReflectionInfo()
        resources.callback(first.cancel)
        await first.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await first.read()

        assert await stub.ServerReflectionInfo().code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        watch = health_pb2_grpc.HealthStub(running.channel).Watch(HealthCheckRequest())
        assert (await watch.read()).status == SERVING


async def test_a_watcher_s_name_is_bounded(serve: Any) -> None:
    """It is kept for as long as somebody watches."""
    running = await serve()

    with pytest.raises(grpc.aio.AioRpcError, match="at most 256 characters") as refused:
        await health_pb2_grpc.HealthStub(running.channel).Watch(HealthCheckRequest(service="x" * 257)).read()

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
