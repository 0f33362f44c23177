"""Metrics of the mesh, in Prometheus' form.

A label takes its values from what is loaded or configured, never from what a caller sent: a name that nobody knows is counted
under the empty label. Every child is made once and kept, so that a call costs an increment and no lookup by label.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.gc_collector import GCCollector

import infermesh

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per series, which nobody asks for

__all__ = ["Metrics"]

LATENCY_BUCKETS_S = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
MAX_CHILDREN = 10_000  # a bound for all label sets together; past it calls are counted under empty labels


class Metrics:
    """The registry of one service, and the metrics that every service has.

    | metric | labels | meaning |
    |---|---|---|
    | `infermesh_requests_total` | service, model, version, variant, code | inference calls by their outcome |
    | `infermesh_request_seconds` | service, model, version, variant | their latency, seen from inside the service |
    | `infermesh_ready` | service | 1 while the service says that it is ready |
    | `infermesh_build_info` | service, version | 1 |

    A part of a service adds its own by `counter`, `gauge` and `histogram`, with the service as the first label.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = self.counter(
            "infermesh_requests_total", "Inference calls by outcome.", "model", "version", "variant", "code"
        )
        self._seconds = self.histogram(
            "infermesh_request_seconds", "Latency of inference calls.", "model", "version", "variant"
        )
        self._children: dict[tuple[str, str, str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}
        self.ready = self.gauge("infermesh_ready", "1 while the service is ready for traffic.").labels(service)
        self.gauge("infermesh_build_info", "1.", "version").labels(service, infermesh.__version__).set(1)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ("service", *labels), registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, ("service", *labels), registry=self.registry)

    def histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = LATENCY_BUCKETS_S
    ) -> Histogram:
        return Histogram(name, text, ("service", *labels), registry=self.registry, buckets=buckets)

    def request(self, model: str, version: str, variant: str, code: str, seconds: float) -> None:
        """Count one inference call; it is `Measured`'s observer."""
        key = (model, version, variant, code)
        child = self._children.get(key)
        if child is None:
            child = self._child(key)
        child[0]()
        child[1](seconds)

    def _child(self, key: tuple[str, str, str, str]) -> tuple[Callable[[], None], Callable[[float], None]]:
        if len(self._children) >= MAX_CHILDREN:
            key = ("", "", "", key[3])
        model, version, variant, code = key
        count = self._requests.labels(self.service, model, version, variant, code).inc
        child = (count, self._seconds.labels(self.service, model, version, variant).observe)
        if len(self._children) < 2 * MAX_CHILDREN:
            self._children[key] = child
        return child
