"""grpc.health.v1 for one server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["Health"]

MAX_NAME = 256  # of a service; a watcher's is kept for as long as it watches


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # generated, without types
    """What health checks and watchers are told, by the name of a service.

    grpcio-health-checking's own aio servicer (1.81) forgets the other watchers of a name when one of them leaves, and writes to a
    watcher under the lock that `set` needs: one that does not read would hold up a drain. Here `set` waits for nobody.
    """

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._changed = asyncio.Event()

    def set(self, service: str, *, serving: bool) -> None:
        """From now on this is the answer; watchers hear of it when they next read, of the last change only."""
        self._serving[service] = serving
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        if request.service not in self._serving:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, "no such service; the known ones are in the reflection service"
            )
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        if len(request.service) > MAX_NAME:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"service: expected at most {MAX_NAME} characters")
        last = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            await changed.wait()

    def _status(self, service: str) -> int:
        serving = self._serving.get(service)
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVICE_UNKNOWN if serving is None else kinds.SERVING if serving else kinds.NOT_SERVING
        return int(status)
