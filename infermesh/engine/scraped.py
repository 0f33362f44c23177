"""What `/metrics` tells of a service with several processes: theirs, joined, and the supervisor's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotInTime

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from infermesh.engine.joined import Gone, Joined, Told
from infermesh.engine.process import Process

__all__ = ["Scraped"]

WITHIN_S = 5.0


class Scraped:
    """| metric | labels | meaning |
    |---|---|---|
    | `infermesh_engine_processes` | service, state | processes that are `ready`, or `starting` |
    | `infermesh_engine_restarts_total` | service, reason | processes that were started again: `failed`, or `asked` for |
    """

    def __init__(
        self,
        service: str,
        processes: Callable[[], Sequence[Process]],
        leaving: Callable[[], Sequence[Process]],
    ) -> None:
        self.gone = Gone()
        self._service = service
        self._list = processes
        self._leaving = leaving
        self._own = CollectorRegistry()
        labels = ("service", "state")
        self._processes = Gauge("infermesh_engine_processes", "Processes by state.", labels, registry=self._own)
        self._restarts = Counter(
            "infermesh_engine_restarts", "Processes started again.", ("service", "reason"), registry=self._own
        )
        self._tls: tuple[Counter, Gauge, Gauge] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> CollectorRegistry:
        """The registry to scrape, from a thread other than that of this loop."""
        self._loop = loop
        registry = CollectorRegistry()
        registry.register(Joined(self._told))
        return registry

    def restarted(self, reason: str) -> None:
        self._restarts.labels(self._service, reason).inc()

    def certificates(self, good: bool, expires_at: float) -> None:
        """Readings of the server's certificates, which the supervisor makes for all processes."""
        if self._tls is None:
            registry = self._own
            self._tls = (
                Counter(
                    "infermesh_tls_reloads_total",
                    "Changed certificates.",
                    ("service", "of", "outcome"),
                    registry=registry,
                ),
                Gauge(
                    "infermesh_tls_bad",
                    "1 while changed certificates can't be used.",
                    ("service", "of"),
                    registry=registry,
                ),
                Gauge(
                    "infermesh_tls_expires_seconds",
                    "When the certificate in use expires.",
                    ("service", "of"),
                    registry=registry,
                ),
            )
        reloads, bad, expires = self._tls
        reloads.labels(self._service, "server", "good" if good else "bad").inc()
        bad.labels(self._service, "server").set(not good)
        expires.labels(self._service, "server").set(expires_at)

    def _told(self) -> Told:
        assert self._loop is not None
        asked = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        try:
            return asked.result(WITHIN_S)
        except NotInTime:  # the supervisor ends
            asked.cancel()
            return Told([generate_latest(self._own).decode()], [], self.gone.families)

    async def _ask(self) -> Told:
        """Each process is in one place when all have answered: what it counts goes from its own list to the next in one step."""
        await asyncio.gather(*(each.metrics() for each in (*self._list(), *self._leaving())))
        processes = self._list()
        ready = sum(each.is_ready for each in processes)
        self._processes.labels(self._service, "ready").set(ready)
        self._processes.labels(self._service, "starting").set(len(processes) - ready)
        own = generate_latest(self._own).decode()
        leaving = [each.last_metrics for each in self._leaving()]
        return Told([*(each.last_metrics for each in processes), own], leaving, self.gone.families)
