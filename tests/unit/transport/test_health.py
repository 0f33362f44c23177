"""grpc.health.v1: Check and Watch."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

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
