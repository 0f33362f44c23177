"""One scrape that sees all processes of a service: their metrics, joined.

Counters and histograms are added up. What processes that have ended have counted stays in the sum, or each restart would
look like a service that counts from the start again. A gauge is joined by the rule that its meaning asks for: `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

__all__ = ["RULES", "Gone", "Joined", "join"]

MAX_GONE = 100_000  # series of processes that have ended; past it the oldest are forgotten

Key = tuple[str, tuple[tuple[str, str], ...]]

RULES: dict[str, Callable[[Iterable[float]], float]] = {
    # what each process has for itself: all of it
    "infermesh_audit_waiting_lines": sum,
    "infermesh_backend_endpoints": sum,  # connections to an address are each process's own
    "infermesh_gateway_compare_restarts": sum,
    "infermesh_gateway_compare_waiting_bytes": sum,
    "infermesh_gateway_in_flight": sum,
    "infermesh_model_in_flight": sum,
    "infermesh_model_waiting": sum,
    "infermesh_response_cache_bytes": sum,
    "infermesh_shadow_findings": max,
    "infermesh_shadow_pairs": sum,
    "infermesh_shadow_pairs_unknown": sum,
    "infermesh_shadow_repeats": sum,
    "infermesh_shadow_save_failures": sum,
    "process_open_fds": sum,
    "process_resident_memory_bytes": sum,
    "process_virtual_memory_bytes": sum,
    # 1 while all is well: the process where it is not shows
    "infermesh_gateway_variant_ready": min,
    "infermesh_ready": min,
    "infermesh_tls_expires_seconds": min,
    "infermesh_transformer_redis_up": min,
    "process_max_fds": min,
    "process_start_time_seconds": min,
}
"""How a gauge is joined; one that is not here is the same in each process, or bad when it is large, and the largest is told."""


class Gone:
    """What processes that have ended had counted."""

    def __init__(self) -> None:
        self.families: list[Metric] = []

    def add(self, text: str) -> None:
        """Take over the counters and histograms of a process's last scrape."""
        counted = [family for family in _parsed(text) if family.type in ("counter", "histogram", "summary")]
        self.families = join([self.families, counted])
        over = sum(len(family.samples) for family in self.families) - MAX_GONE
        for family in self.families:
            if over <= 0:
                return
            dropped = family.samples[: max(over, 0)]
            family.samples = family.samples[len(dropped) :]
            over -= len(dropped)


class Joined(Collector):
    """Collects by asking; runs in the thread of whoever scrapes."""

    def __init__(self, texts: Callable[[], Sequence[str]], gone: Gone) -> None:
        self._texts = texts
        self._gone = gone

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is, is known when processes are asked."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from join([*(_parsed(text) for text in self._texts()), self._gone.families])


def join(processes: Iterable[Sequence[Metric]]) -> list[Metric]:
    """The families of all processes, each once; a series has one value."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[Key, list[float]]] = {}
    for process in processes:
        for family in process:
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            series = values.setdefault(family.name, {})
            for sample in family.samples:
                series.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample.value)
    for name, family in families.items():
        rule = _rule(family)
        for (sample_name, labels), found in values[name].items():
            family.add_sample(sample_name, dict(labels), rule(found))
    return list(families.values())


def _rule(family: Metric) -> Callable[[Iterable[float]], float]:
    return RULES.get(family.name, max) if family.type in ("gauge", "unknown", "info") else sum


def _parsed(text: str) -> list[Metric]:
    parse: Any = text_string_to_metric_families
    return list(parse(text))
