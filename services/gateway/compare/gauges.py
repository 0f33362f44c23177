"""What Prometheus is told of a comparison: what one would alert on; a report has the rest."""

from __future__ import annotations

import math
import re

from services.gateway.compare.report import Report
from services.gateway.compare_frames import SEPARATOR

__all__ = ["gauges_of"]

PREFIX = "infermesh_shadow_"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # the separator is one of them


def gauges_of(report: Report, variant: str) -> dict[str, float]:
    """Values by name and labels: model, shadow, variant, and for some `what`, `output` and `of` or `quantile`."""
    gauges: dict[str, float] = {}

    def tell(name: str, value: float | None, *labels: str) -> None:
        if value is not None and not math.isnan(value):
            of = (_CONTROL.sub("?", each) for each in (report.model, report.shadow, variant, *labels))
            gauges[SEPARATOR.join((PREFIX + name, *of))] = value

    tell("pairs", report.pairs)
    tell("repeats", report.repeats)
    tell("differs", report.verdict.state == "differs")
    tell("findings", len(report.verdict.findings))
    shares: dict[tuple[str, str, str], float] = {}
    for event in report.events:  # thresholds of one output share a series: the largest
        for of, proportion in (("shadow", event.shadow), ("repeat", event.repeat)):
            key = (event.what, event.output, of)
            if proportion.of:
                shares[key] = max(proportion.share, shares.get(key, 0.0))
    for key, share in shares.items():
        tell("event_share", share, *key)
    for output in report.outputs:
        tell("difference", output.max_abs.p50, output.name, "0.5")
        tell("difference", output.max_abs.p99, output.name, "0.99")
        moved = [each.psi for each in report.shifts if each.output == output.name and each.psi is not None]
        tell("psi", max(moved, default=None), output.name)
    tell("latency_difference_seconds", report.latency.median_difference)
    return gauges
