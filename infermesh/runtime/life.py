"""What every service does from its start to its end, whichever engine carries its calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

from infermesh.config import ServiceConfig
from infermesh.filters import Measured
from infermesh.service import Stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.telemetry.metrics import no_label
from infermesh.transport import Server

__all__ = ["Build", "C", "Telemetry", "Told", "serve_until"]

READY_CHECK_S = 0.5  # how soon health follows a service that becomes ready, or stops being so, while it runs

C = TypeVar("C", bound=ServiceConfig)
_log = logging.getLogger("infermesh.runtime")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a `build()` is given to report with."""

    metrics: Metrics
    tracing: Tracing


Build = Callable[[C, Telemetry], AbstractAsyncContextManager[Stack]]


@dataclass(frozen=True, slots=True)
class Told:
    """When a service drains (not ready any more, calls are still answered), leaves (no new calls) and closes."""

    draining: asyncio.Event
    leaving: asyncio.Event | None
    """None: `drain_s` after the first."""
    closing: asyncio.Event | None
    """None: as soon as it has left."""
    drain_s: float = 0.0

    @classmethod
    def by_itself(cls, stop: asyncio.Event, drain_s: float) -> Told:
        return cls(stop, None, None, drain_s)

    async def left(self) -> None:
        await (asyncio.sleep(self.drain_s) if self.leaving is None else self.leaving.wait())

    async def closed(self) -> None:
        if self.closing is not None:
            await self.closing.wait()


async def serve_until(
    told: Told, config: C, build: Build[C], telemetry: Telemetry, server: Server, when_built: Callable[[], None]
) -> None:
    serving = asyncio.ensure_future(_serve_built(told, config, build, telemetry, server, when_built))
    stopping = asyncio.ensure_future(told.draining.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not server.is_empty:
            await serving
    finally:  # also when told to stop while it was still starting
        stopping.cancel()
        serving.cancel()
        await asyncio.wait({serving})
    if not serving.cancelled():
        serving.result()
    await told.closed()


async def _serve_built(
    told: Told,
    config: C,
    build: Build[C],
    telemetry: Telemetry,
    server: Server,
    when_built: Callable[[], None],
) -> None:
    async with build(config, telemetry) as service:
        _log.info("built: %r", service)
        telemetry.metrics.label = next((f.label for f in service.filters if isinstance(f, Measured)), no_label)
        server.mount(service)
        when_built()
        following = asyncio.ensure_future(_follow_readiness(service, server, telemetry.metrics))
        await told.draining.wait()
        following.cancel()
        await server.set_ready(False)
        telemetry.metrics.ready.set(0)
        _log.info("draining", extra={"in_flight": server.in_flight, "drain_s": config.server.drain})
        await told.left()
        await server.stop(config.server.grace)
        await told.closed()


async def _follow_readiness(service: Stack, server: Server, metrics: Metrics) -> None:
    was: bool | None = None
    while True:
        try:
            ready = await service.ready()
        except Exception as error:
            _log.error("readiness could not be told", exc_info=error)
            ready = False
        if ready is not was:
            await server.set_ready(ready)
            metrics.ready.set(ready)
            _log.info("ready" if ready else "not ready")
            was = ready
        await asyncio.sleep(READY_CHECK_S)
