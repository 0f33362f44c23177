"""One scrape that sees all processes of a service: their metrics, joined.

Counters and histograms are added up. What processes that have ended have counted stays in the sum, or each restart would
look like a service that counts from the start again. A gauge is joined by the rule that its meaning asks for: `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

__all__ = ["RULES", "Gone", "Joined", "Told", "join"]

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
    "infermesh_shadow_pairs": sum,
    "infermesh_shadow_pairs_unknown": sum,
    "infermesh_shadow_repeats": sum,
    "infermesh_shadow_save_failures": sum,
    "infermesh_transformer_cache_bytes": sum,
    "infermesh_transformer_cache_entries": sum,
    "process_open_fds": sum,
    "process_resident_memory_bytes": sum,
    "process_virtual_memory_bytes": sum,
    # the same in each process, or the supervisor's own
    "infermesh_build_info": max,
    "infermesh_engine_processes": max,
    "infermesh_gateway_file_generation": max,
    "infermesh_gateway_variant_share": max,
    "infermesh_loaded_versions": max,
    "infermesh_model_file_bytes": max,
    "infermesh_source_cache_bytes": max,  # on disk, shared
    # marks of trouble, and findings of the one process that compares: the largest
    "infermesh_gateway_file_bad": max,
    "infermesh_gateway_limit_store_away": max,
    "infermesh_shadow_difference": max,
    "infermesh_shadow_differs": max,
    "infermesh_shadow_event_share": max,
    "infermesh_shadow_findings": max,
    "infermesh_shadow_latency_difference_seconds": max,
    "infermesh_shadow_psi": max,
    "infermesh_tls_bad": max,
    "infermesh_transformer_model_faults": max,
    # 1 while all is well: the process where it is not shows
    "infermesh_gateway_variant_ready": min,
    "infermesh_ready": min,
    "infermesh_tls_expires_seconds": min,
    "infermesh_transformer_redis_up": min,
    "process_max_fds": min,
    "process_start_time_seconds": min,
}
"""How a gauge is joined; of one that is not here, which a metric of a library may be, the largest is told."""


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


class Told(NamedTuple):
    """What there is to join."""

    texts: Sequence[str]
    """Of processes that serve, and of the supervisor."""
    leaving: Sequence[str]
    """Of processes that answer what they have: what they count and hold, but nothing of how they are."""
    gone: Sequence[Metric]


class Joined(Collector):
    """Collects by asking; runs in the thread of whoever scrapes."""

    def __init__(self, told: Callable[[], Told]) -> None:
        self._told = told

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is, is known when processes are asked."""
        return []

    def collect(self) -> Iterator[Metric]:
        told = self._told()
        leaving = ([family for family in _parsed(text) if _rule(family) is sum] for text in told.leaving)
        yield from join([*map(_parsed, told.texts), *leaving, told.gone])


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
