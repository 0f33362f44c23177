"""What was counted in plain numbers, as a scrape finds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from services.transformer.redis.cached import Cache
from services.transformer.statuses import Status
from services.transformer.tally import LookupTally, Tally

__all__ = ["Caches", "Lookups", "Views"]

PREFIX = "infermesh_transformer"
CACHE = f"{PREFIX}_cache"


class Lookups(Collector):
    """Lookups by result, and how long they took."""

    def __init__(self, service: str, tally: LookupTally) -> None:
        self._service = service
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        lookups = CounterMetricFamily(f"{PREFIX}_lookups", "Lookups by result.", labels=("service", "result"))
        for result, count in self._tally.results.items():
            lookups.add_metric((self._service, result), count)
        seconds = HistogramMetricFamily(f"{PREFIX}_lookup_seconds", "Time in Redis.", labels=("service",))
        self._tally.seconds.put_into(seconds, (self._service,))
        yield from (lookups, seconds)


class Views(Collector):
    """What was found and served, by view."""

    def __init__(self, service: str, tallies: Mapping[str, Tally]) -> None:
        self._service = service
        self._tallies = tallies

    def collect(self) -> Iterator[Metric]:
        labels = ("service", "view")
        entities = CounterMetricFamily(f"{PREFIX}_entities", "Entities by what was found.", labels=(*labels, "status"))
        values = CounterMetricFamily(f"{PREFIX}_feature_values", "Values by status.", labels=(*labels, "status"))
        ages = HistogramMetricFamily(
            f"{PREFIX}_feature_age_seconds", "Age of the oldest row of a request.", labels=labels
        )
        for view, tally in self._tallies.items():
            for found, count in tally.entities.items():
                entities.add_metric((self._service, view, found), count)
            for status in Status:
                values.add_metric((self._service, view, status.word), tally.values[status])
            tally.ages.put_into(ages, (self._service, view))
        yield from (entities, values, ages)


class Caches(Collector):
    """What the rows that are kept in the process are good for; without a cache there is nothing."""

    def __init__(self, service: str, caches: Sequence[Cache]) -> None:
        self._service = service
        self._caches = caches

    def collect(self) -> Iterator[Metric]:
        caches = self._caches
        if not caches:
            return
        keys = CounterMetricFamily(f"{CACHE}_keys", "Keys by what the cache knew.", labels=("service", "result"))
        for result, counts in (
            ("hit", [cache.hits for cache in caches]),
            ("negative", [cache.negatives for cache in caches]),
            ("miss", [cache.misses for cache in caches]),
            ("kept", [cache.kept_hits for cache in caches]),
        ):
            keys.add_metric((self._service, result), sum(counts))
        yield keys
        yield self._count("invalidations", "Keys that Redis said have changed.", [c.invalidations for c in caches])
        yield self._count("flushes", "Times that everything was forgotten.", [c.flushes for c in caches])
        yield self._count("evictions", "Entries that went for want of bytes.", [c.evictions for c in caches])
        for name, text, values in (
            ("entries", "Entries, of rows and of keys that hold nothing.", [len(cache) for cache in caches]),
            ("bytes", "Memory of the entries, and of what is kept aside.", [cache.size_bytes for cache in caches]),
        ):
            gauge = GaugeMetricFamily(f"{CACHE}_{name}", text, labels=("service",))
            gauge.add_metric((self._service,), sum(values))
            yield gauge

    def _count(self, name: str, text: str, values: Sequence[int]) -> Metric:
        counter = CounterMetricFamily(f"{CACHE}_{name}", text, labels=("service",))
        counter.add_metric((self._service,), sum(values))
        return counter
