"""What the limits count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from infermesh.telemetry import Metrics
from services.gateway.limit_rules import Rule

__all__ = ["ConcurrencyMetrics", "LimitMetrics"]

FAILURES = ("timeout", "lost", "error", "connect", "busy")


class LimitMetrics:
    """| metric | labels | meaning |
    |---|---|---|
    | `infermesh_gateway_limit_decisions_total` | service, rule, outcome | calls that match a rule (below) |
    | `infermesh_gateway_limit_store_failures_total` | service, reason | decisions that Redis did not give (below) |
    | `infermesh_gateway_limit_store_away` | service | 1 while Redis is not asked and the rules do as `on_store_failure` says |

    A rule has `admitted`, `refused`, `remembered` (refused here, as Redis said before), `observed` (past a limit that only
    observes) or `failed_closed`. Redis' reasons: `timeout`, `lost` (the connection), `error` (its reply), `connect`, `busy` (more
    calls at once than it answers in time).
    """

    def __init__(self, metrics: Metrics, rules: Sequence[Rule], *, shared: bool) -> None:
        service = metrics.service
        metrics.registry.register(_Decisions(service, rules))
        if not shared:
            return
        failures = metrics.counter("infermesh_gateway_limit_store_failures_total", "Failures of the store.", "reason")
        self._failures = {each: failures.labels(service, each).inc for each in FAILURES}
        self._away = metrics.gauge("infermesh_gateway_limit_store_away", "1 while it is not asked.").labels(service)

    def store_failed(self, reason: str) -> None:
        self._failures[reason]()

    def store_away(self, away: bool) -> None:
        self._away.set(away)


class ConcurrencyMetrics:
    """| metric | labels | meaning |
    |---|---|---|
    | `infermesh_gateway_shed_total` | service, backend, kind, mode | calls past the share of their kind, refused or observed |
    | `infermesh_gateway_in_flight` | service, backend | calls that the backend has |

    A kind is `prediction`, `background`, `explanation` or `shadow`.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._service = metrics.service
        self._shed = metrics.counter("infermesh_gateway_shed_total", "Calls past a share.", "backend", "kind", "mode")
        self._in_flight = metrics.gauge("infermesh_gateway_in_flight", "Calls under way.", "backend")

    def shed(self, backend: str, mode: str) -> Callable[[str], None]:
        """What counts a call that is past the share of its kind."""
        return lambda kind: self._shed.labels(self._service, backend, kind, mode).inc()

    def in_flight(self, backend: str, read: Callable[[], int]) -> None:
        """From now on the gauge is what `read` says."""
        self._in_flight.labels(self._service, backend).set_function(read)


class _Decisions(Collector):
    """Reads what the rules have counted, in the thread of whoever scrapes: a call pays for an addition alone."""

    def __init__(self, service: str, rules: Sequence[Rule]) -> None:
        self._service = service
        self._rules = rules

    def describe(self) -> Iterator[Metric]:
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for rule in self._rules:
            for outcome, count in rule.outcomes.items():
                family.add_metric((self._service, rule.name, outcome), count)
        yield family

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(
            "infermesh_gateway_limit_decisions", "Decisions of limits.", labels=("service", "rule", "outcome")
        )
