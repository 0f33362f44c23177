"""The predictor's metrics: what its repository and its model versions count, read when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from infermesh.telemetry.histogram import Histogram
from services.predictor.model_version import ModelVersion
from services.predictor.repository.repository import Repository
from services.predictor.response_cache import ResponseCache
from services.predictor.statistics import Statistics

__all__ = ["RepositoryCollector", "VersionsCollector"]

LABELS = ("service", "model", "version")

_HISTOGRAMS: tuple[tuple[str, str, Callable[[Statistics], Histogram]], ...] = (
    ("infermesh_model_queue_seconds", "Time that a request waited before it ran.", lambda s: s.queue_seconds),
    ("infermesh_model_compute_seconds", "Time of a run.", lambda s: s.compute_seconds),
    ("infermesh_model_batch_rows", "Rows of a run.", lambda s: s.batch_rows),
    ("infermesh_model_batch_requests", "Requests that shared a run.", lambda s: s.batch_requests),
)
_CACHE_TOTALS: tuple[tuple[str, str, Callable[[Statistics, ResponseCache], int]], ...] = (
    ("infermesh_response_cache_hits", "Requests answered from memory.", lambda s, _: s.cache_hit.count),
    ("infermesh_response_cache_misses", "Requests that were not in memory.", lambda s, _: s.cache_miss.count),
    ("infermesh_response_cache_evictions", "Answers that went for others.", lambda _, cache: cache.evictions),
)
_LOADS = (
    ("infermesh_model_loads", "Versions that were loaded.", "loads"),
    ("infermesh_model_load_failures", "Versions, models and configurations that could not be loaded.", "failures"),
    ("infermesh_repository_away", "Times that a root could not be asked.", "away"),
)
_SOURCE = (
    ("infermesh_source_downloads", "Files that came from a root.", "downloads"),
    ("infermesh_source_download_bytes", "Bytes that came from a root.", "download_bytes"),
    ("infermesh_source_cache_hits", "Versions that were whole in the cache on disk.", "hits"),
    ("infermesh_source_cache_evictions", "Versions that left the cache on disk for others.", "evictions"),
    ("infermesh_source_cache_corrupt", "Files in the cache on disk that had changed.", "corrupt"),
)


class Serving(Protocol):
    """What a scrape reads of a repository: one tuple that is replaced whole, so that another thread may read it."""

    @property
    def serving(self) -> tuple[ModelVersion, ...]: ...


class VersionsCollector(Collector):
    """What each loaded version counts. Its series begin with it and go with it; its labels are names of what is loaded.

    Runs in the thread of whoever scrapes: it reads numbers and lists of fixed length, and copies maps in one step.
    """

    def __init__(self, repository: Serving, service: str) -> None:
        self._repository = repository
        self._service = service

    def describe(self) -> Iterator[Metric]:
        """The names, so that the registry refuses a second metric of one of them."""
        yield from self._families(())

    def collect(self) -> Iterator[Metric]:
        yield from self._families(self._repository.serving)

    def _families(self, versions: tuple[ModelVersion, ...]) -> Iterator[Metric]:
        labelled = [((self._service, v.model, v.version_text), v) for v in versions]
        loaded = GaugeMetricFamily("infermesh_loaded_versions", "Model versions that are loaded.", labels=["service"])
        loaded.add_metric([self._service], len(versions))
        yield loaded
        size = GaugeMetricFamily("infermesh_model_file_bytes", "Size of a loaded model's file.", labels=LABELS)
        in_flight = GaugeMetricFamily("infermesh_model_in_flight", "Requests being worked on.", labels=LABELS)
        waiting = GaugeMetricFamily("infermesh_model_waiting", "Requests in the queue.", labels=LABELS)
        requests = CounterMetricFamily(
            "infermesh_model_requests", "Requests that reached the version, by outcome.", labels=(*LABELS, "code")
        )
        rows = CounterMetricFamily("infermesh_model_rows", "Rows of the requests that ran.", labels=LABELS)
        nan = CounterMetricFamily("infermesh_model_nan_answers", "Answers with a NaN in them.", labels=LABELS)
        for labels, version in labelled:
            statistics = version.statistics
            size.add_metric(labels, version.size_bytes)
            in_flight.add_metric(labels, statistics.in_flight)
            waiting.add_metric(labels, version.waiting)
            requests.add_metric((*labels, "OK"), statistics.success.count)
            for code, total in statistics.failures.copy().items():
                requests.add_metric((*labels, code), total.count)
            rows.add_metric(labels, statistics.rows)
            nan.add_metric(labels, statistics.nan_answers)
        yield from (size, in_flight, waiting, requests, rows, nan)
        for name, text, of in _HISTOGRAMS:
            family = HistogramMetricFamily(name, text, labels=LABELS)
            for labels, version in labelled:
                of(version.statistics).put_into(family, labels)
            yield family
        yield from _caches(
            [(labels, v.statistics, v.response_cache) for labels, v in labelled if v.response_cache is not None]
        )


class RepositoryCollector(Collector):
    """What the repository, and the cache on disk that it loads from, have done since the start."""

    def __init__(self, repository: Repository, service: str) -> None:
        self._repository = repository
        self._service = service

    def collect(self) -> Iterator[Metric]:
        repository = self._repository
        for names, counts in ((_LOADS, repository.counts), (_SOURCE, repository.source.counts)):
            for name, text, attribute in names:
                total = CounterMetricFamily(name, text, labels=["service"])
                total.add_metric([self._service], getattr(counts, attribute))
                yield total
        kept = GaugeMetricFamily("infermesh_source_cache_bytes", "Bytes in the cache on disk.", labels=["service"])
        kept.add_metric([self._service], repository.source.counts.cache_bytes)
        yield kept


def _caches(caches: list[tuple[tuple[str, str, str], Statistics, ResponseCache]]) -> Iterator[Metric]:
    for name, text, of in _CACHE_TOTALS:
        total = CounterMetricFamily(name, text, labels=LABELS)
        for labels, statistics, cache in caches:
            total.add_metric(labels, of(statistics, cache))
        yield total
    kept = GaugeMetricFamily("infermesh_response_cache_bytes", "Bytes of the answers in memory.", labels=LABELS)
    for labels, _, cache in caches:
        kept.add_metric(labels, cache.size_bytes)
    yield kept
