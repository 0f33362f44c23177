"""How the variants of a route table stand, for metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["Standing", "StandingCollector"]

WEIGHT = "infermesh_gateway_variant_share"
READY = "infermesh_gateway_variant_ready"


class Standing(NamedTuple):
    """One variant: the part of the calls that it gets now, where no rule says otherwise, and whether it counts as ready."""

    model: str
    variant: str
    backend: str
    version: str
    share: float
    ready: bool


class StandingCollector(Collector):
    """Reads the table when somebody scrapes, in their thread: a variant that is no more has no series, and calls pay nothing."""

    def __init__(self, service: str, read: Callable[[], Iterable[Standing]]) -> None:
        self._service = service
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """The names, so that the registry refuses a second metric of one of them."""
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        share, ready = self._families()
        for each in self._read():
            labels = (self._service, each.model, each.variant, each.backend, each.version)
            share.add_metric(labels, each.share)
            ready.add_metric(labels, each.ready)
        yield share
        yield ready

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        labels = ("service", "model", "variant", "backend", "version")
        return (
            GaugeMetricFamily(WEIGHT, "Part of the calls that a variant gets now.", labels=labels),
            GaugeMetricFamily(READY, "1 unless the variant is known not to be ready.", labels=labels),
        )
