"""What is counted of a backend's addresses; the addresses themselves come and go, and are no labels."""

from __future__ import annotations

from infermesh.telemetry.metrics import Metrics

__all__ = ["EndpointMetrics"]


class EndpointMetrics:
    """`of(backend)` is what its `RemoteService` tells.

    | metric | labels | meaning |
    |---|---|---|
    | `infermesh_backend_endpoints` | service, backend, state | addresses that are `ready`, `ejected` by a breaker, or `away` |
    | `infermesh_backend_breaker_total` | service, backend, change | breakers of addresses: `opened`, `half_opened`, `closed` |
    | `infermesh_backend_lookups_total` | service, backend, outcome | look-ups of the backend's name, `good` or `bad` |
    """

    def __init__(self, metrics: Metrics) -> None:
        self._service = metrics.service
        self._endpoints = metrics.gauge("infermesh_backend_endpoints", "Addresses by state.", "backend", "state")
        self._breaker = metrics.counter(
            "infermesh_backend_breaker_total", "Changes of addresses' breakers.", "backend", "change"
        )
        self._lookups = metrics.counter("infermesh_backend_lookups_total", "Look-ups of a name.", "backend", "outcome")

    def of(self, backend: str) -> _Backend:
        return _Backend(self, backend)

    def _set(self, backend: str, state: str, count: int) -> None:
        self._endpoints.labels(self._service, backend, state).set(count)


class _Backend:
    def __init__(self, metrics: EndpointMetrics, backend: str) -> None:
        self._metrics = metrics
        self._backend = backend

    def endpoints(self, ready: int, ejected: int, away: int) -> None:
        for state, count in (("ready", ready), ("ejected", ejected), ("away", away)):
            self._metrics._set(self._backend, state, count)

    def breaker(self, change: str) -> None:
        self._metrics._breaker.labels(self._metrics._service, self._backend, change).inc()

    def resolved(self, good: bool) -> None:
        outcome = "good" if good else "bad"
        self._metrics._lookups.labels(self._metrics._service, self._backend, outcome).inc()
