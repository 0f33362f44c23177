"""Metrics of the mesh, in Prometheus' form.

A label takes its values from what is loaded or configured, never from what a caller sent: a name that nobody knows is counted
under the empty label. Every child is made once and kept, so that a call costs an increment and no lookup by label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import prometheus_client
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.registry import Collector

import infermesh
from infermesh.telemetry.histogram import Histogram

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per series, which nobody asks for

__all__ = ["Metrics", "no_label"]

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
MAX_OF_VARIANT = (
    1000  # of them for one variant of a model: versions are what a backend says, and one that makes them up
)
MAX_VERSION_CHARS = 64  # must not take the labels of the others
MAX_FORGOTTEN = 1000

Labels = tuple[str, str, str]  # model, version, variant


def no_label(model: str) -> str:
    """The empty label, whatever was asked for."""
    return ""


class _Outcome:
    """Calls of one label set that ended with one code; their latency is in the histogram of all codes."""

    __slots__ = ("count", "seconds")

    def __init__(self, seconds: Histogram) -> None:
        self.count = 0
        self.seconds = seconds


class Metrics:
    """The registry of one service, and the metrics that every service has; docs/metrics.md lists them.

    A part of a service adds its own by `counter`, `gauge` and `histogram`, with the service as the first label, or registers
    a collector. `request` is called on the event loop alone.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.label: Callable[[str], str] = no_label
        """What a model's name is as a label, of which `refused` knows nothing before the service is built."""
        self._outcomes: dict[tuple[str, str, str, str], _Outcome] = {}
        self._seconds: dict[Labels, Histogram] = {}
        self._kept: dict[str, dict[str, list[tuple[str, str, str, str]]]] = {}  # what there is, by model and variant
        self._forgotten: dict[
            tuple[str, str], None
        ] = {}  # variants that calls under way may still end with; oldest first
        self._tls: tuple[Counter, Gauge, Gauge] | None = None
        self.registry.register(_Requests(service, self._outcomes, self._seconds))
        self.ready = self.gauge("infermesh_ready", "1 while the service is ready for traffic.").labels(service)
        self.gauge("infermesh_build_info", "1.", "version").labels(service, infermesh.__version__).set(1)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ("service", *labels), registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, ("service", *labels), registry=self.registry)

    def histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = LATENCY_BUCKETS_S
    ) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(name, text, ("service", *labels), registry=self.registry, buckets=buckets)

    def certificates(self, of: str) -> Callable[[bool, float], None]:
        """What counts the readings of certificates, of the server or of a backend, and keeps when the one in use expires.

        A service without TLS has no such metrics.
        """

        def observe(good: bool, expires_at: float) -> None:
            if self._tls is None:
                self._tls = (
                    self.counter("infermesh_tls_reloads_total", "Changed certificates.", "of", "outcome"),
                    self.gauge("infermesh_tls_bad", "1 while changed certificates can't be used.", "of"),
                    self.gauge("infermesh_tls_expires_seconds", "When the certificate in use expires.", "of"),
                )
            reloads, bad, expires = self._tls
            reloads.labels(self.service, of, "good" if good else "bad").inc()
            bad.labels(self.service, of).set(not good)
            expires.labels(self.service, of).set(expires_at)

        return observe

    def request(self, model: str, version: str, variant: str, code: str, seconds: float) -> None:
        """Count one inference call; it is `Measured`'s observer."""
        outcome = self._outcomes.get((model, version, variant, code))
        if outcome is None:
            outcome = self._outcome(model, version, variant, code)
        outcome.count += 1
        outcome.seconds.add(seconds)

    def refused(self, model: str, code: str) -> None:
        """Count one inference call that was refused before any filter saw it. Its latency, which is nothing, is not."""
        key = (self.label(model), "", "", code)
        outcome = self._outcomes.get(key) or self._outcome(*key)
        outcome.count += 1

    def forget(self, model: str, variant: str) -> None:
        """Drop the series of a variant of a model that is no more, and all of the model when `label` does not know it either.

        A call that ends later is counted without a variant, until `expect` names it again.
        """
        self._drop(model, variant)
        self._forgotten[model, variant] = None
        if len(self._forgotten) > MAX_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]
        if self.label(model) != model:
            for each in list(self._kept.get(model, ())):
                self._drop(model, each)

    def expect(self, model: str, variant: str) -> None:
        """There is such a variant, whatever was forgotten."""
        self._forgotten.pop((model, variant), None)

    def _drop(self, model: str, variant: str) -> None:
        variants = self._kept.get(model, {})
        for key in variants.pop(variant, ()):
            del self._outcomes[key]
            self._seconds.pop(key[:3], None)
        if not variants:
            self._kept.pop(model, None)

    def _outcome(self, model: str, version: str, variant: str, code: str) -> _Outcome:
        if (model, variant) in self._forgotten:
            version = variant = ""
        if len(self._outcomes) >= MAX_CHILDREN:  # codes are few, so what is under empty labels has a bound too
            model = version = variant = ""
        kept = self._kept.setdefault(model, {}).setdefault(variant, [])
        if len(kept) >= MAX_OF_VARIANT or len(version) > MAX_VERSION_CHARS:
            version = ""
        key = (model, version, variant, code)
        outcome = self._outcomes.get(key)
        if outcome is None:
            seconds = self._seconds.setdefault((model, version, variant), Histogram(LATENCY_BUCKETS_S))
            outcome = self._outcomes[key] = _Outcome(seconds)
            kept.append(key)
        return outcome


class _Requests(Collector):
    """Runs in the thread of whoever scrapes."""

    def __init__(
        self, service: str, outcomes: dict[tuple[str, str, str, str], _Outcome], seconds: dict[Labels, Histogram]
    ) -> None:
        self._service = service
        self._outcomes = outcomes
        self._seconds = seconds

    def describe(self) -> Iterator[Metric]:
        """The names, so that the registry refuses a second metric of one of them."""
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        requests, latency = self._families()
        # Copied in one step each: the event loop may be adding a label set.
        for (model, version, variant, code), outcome in self._outcomes.copy().items():
            requests.add_metric((self._service, model, version, variant, code), outcome.count)
        for labels, seconds in self._seconds.copy().items():
            seconds.put_into(latency, (self._service, *labels))
        yield requests
        yield latency

    def _families(self) -> tuple[CounterMetricFamily, HistogramMetricFamily]:
        labels = ("service", "model", "version", "variant")
        return (
            CounterMetricFamily("infermesh_requests", "Inference calls by outcome.", labels=(*labels, "code")),
            HistogramMetricFamily("infermesh_request_seconds", "Latency of inference calls.", labels=labels),
        )
