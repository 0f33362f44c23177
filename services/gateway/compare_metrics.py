"""What is counted of pairs, and what the comparing process says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infermesh.telemetry import Metrics
from services.gateway.compare_frames import SEPARATOR
from services.gateway.series import Series

__all__ = ["CompareMetrics"]

_OF = ("model", "shadow", "variant")
_GAUGES = {  # name after `infermesh_shadow_` → what it is, and its labels past service, model, shadow and variant
    "pairs": ("Pairs with two answers.", ()),
    "repeats": ("Calls that the primary was asked again.", ()),
    "differs": ("1 while the answers differ by more than noise.", ()),
    "findings": ("Differences that are more than noise.", ()),
    "event_share": ("Part of the calls in which it happened, 0 to 1.", ("what", "output", "of")),
    "difference": ("Quantile over calls of the largest absolute difference.", ("output", "quantile")),
    "psi": ("Population stability index; the largest of the output's columns.", ("output",)),
    "latency_difference_seconds": ("Median of shadow minus primary.", ()),
    "save_failures": ("Times that results could not be kept, since the process started.", None),
    "pairs_unknown": ("Pairs of no shadow that is compared, since the process started.", None),
}


class CompareMetrics:
    """
    | metric | labels | meaning |
    |---|---|---|
    | `infermesh_gateway_pairs_total` | service, model, shadow, outcome | pairs: `compared`, `repeated`, `dropped`, `skipped` |
    | `infermesh_gateway_pairs_lost_total` | service | pairs that the comparing process had when it ended |
    | `infermesh_gateway_compare_restarts` | service | times that it was started again |
    | `infermesh_gateway_compare_waiting_bytes` | service | answers that wait for it |
    | `infermesh_shadow_…` | service, model, shadow, variant, … | what it says; see `_GAUGES` |
    """

    def __init__(self, metrics: Metrics) -> None:
        self._service = metrics.service
        self._registry = metrics.registry
        self._pairs = Series(
            metrics.registry, metrics.service, "infermesh_gateway_pairs", "Pairs.", ("model", "shadow"), ("outcome",)
        )
        self._lost = metrics.counter("infermesh_gateway_pairs_lost_total", "Pairs lost with the comparing process.")
        self._lost.labels(self._service)
        self._restarts = metrics.gauge("infermesh_gateway_compare_restarts", "Times it was started again.")
        self._waiting = metrics.gauge("infermesh_gateway_compare_waiting_bytes", "Answers that wait to be compared.")

    def pairs(self, model: str, shadow: str) -> Callable[[str], None]:
        """What counts a pair by its outcome."""
        counts = self._pairs.counts(model, shadow)
        for outcome in ("compared", "repeated", "dropped", "skipped"):
            counts.begin(outcome)
        return counts.add

    def pairs_lost(self, count: int) -> None:
        """The process ended with them."""
        self._lost.labels(self._service).inc(count)

    def process(
        self,
        gauges: Callable[[], Iterable[tuple[str, float]]],
        restarts: Callable[[], float],
        waiting: Callable[[], float],
    ) -> None:
        """Tell from now on how the process is doing; what is given is called in another thread."""
        self._restarts.labels(self._service).set_function(restarts)
        self._waiting.labels(self._service).set_function(waiting)
        self._registry.register(_Said(self._service, gauges))


class _Said(Collector):
    def __init__(self, service: str, read: Callable[[], Iterable[tuple[str, float]]]) -> None:
        self._service = service
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """The names, so that the registry refuses a second metric of one of them."""
        yield from self._families().values()

    def collect(self) -> Iterator[Metric]:
        families = self._families()
        for key, value in self._read():
            name, *labels = key.split(SEPARATOR)
            family = families.get(name)
            if family is not None:
                family.add_metric((self._service, *labels), value)
        yield from families.values()

    def _families(self) -> dict[str, GaugeMetricFamily]:
        families = {}
        for name, (text, more) in _GAUGES.items():
            labels = ("service",) if more is None else ("service", *_OF, *more)
            families[f"infermesh_shadow_{name}"] = GaugeMetricFamily(f"infermesh_shadow_{name}", text, labels=labels)
        return families
