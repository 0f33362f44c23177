"""What the audit counts."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infermesh.line_writer import LineWriter
from infermesh.telemetry import Metrics
from services.gateway.audit.entry import Entry

__all__ = ["AuditMetrics"]


class AuditMetrics(Collector):
    """| metric | labels | meaning |
    |---|---|---|
    | `infermesh_audit_lines_total` | service, outcome | lines of the audit: `written`, `dropped` (too many waited) or `failed` |
    | `infermesh_audit_waiting_lines` | service | lines that wait to be written |

    Reads what the writer has counted, in the thread of whoever scrapes.
    """

    def __init__(self, metrics: Metrics, writer: LineWriter[Entry]) -> None:
        self._service = metrics.service
        self._writer = writer
        metrics.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        writer = self._writer
        lines = CounterMetricFamily("infermesh_audit_lines", "Lines of the audit.", labels=("service", "outcome"))
        counts = {"written": writer.written, "dropped": writer.dropped, "failed": writer.failed}
        for outcome, count in counts.items():
            lines.add_metric((self._service, outcome), count)
        yield lines
        waiting = GaugeMetricFamily("infermesh_audit_waiting_lines", "Lines that wait.", labels=("service",))
        waiting.add_metric((self._service,), writer.waiting)
        yield waiting
