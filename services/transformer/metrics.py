"""What the transformer counts about features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from infermesh.telemetry import Metrics
from services.transformer.statuses import Status
from services.transformer.tally import Tally

__all__ = ["FeatureMetrics"]

RESULTS = ("ok", "timeout", "error", "refused")  # refused: the breaker was open, nobody was asked
LOOKUP_BUCKETS_S = (
    0.0001,
    0.0002,
    0.0003,
    0.0005,
    0.00075,
    0.001,
    0.002,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
)


class FeatureMetrics:
    """Children are made once, here: labels come from the feature file and from this page alone.

    | metric | labels | meaning |
    |---|---|---|
    | `infermesh_transformer_lookups_total` | service, result | lookups, one for each request, by how they ended |
    | `infermesh_transformer_lookup_seconds` | service | how long those took that asked Redis |
    | `infermesh_transformer_entities_total` | service, view, status | entities by what was found for them |
    | `infermesh_transformer_feature_values_total` | service, view, status | values by what was served for them |
    | `infermesh_transformer_feature_age_seconds` | service, view | age of the oldest row of each request |
    | `infermesh_transformer_redis_up` | service | 1 while Redis answers |
    | `infermesh_transformer_model_faults` | service, model | in how much file and model disagree; -1: not asked yet |
    """

    def __init__(self, metrics: Metrics, views: Iterable[str], models: Iterable[str]) -> None:
        service = metrics.service
        lookups = metrics.counter("infermesh_transformer_lookups_total", "Lookups by result.", "result")
        faults = metrics.gauge(
            "infermesh_transformer_model_faults", "Disagreements with the model's metadata.", "model"
        )
        seconds = metrics.histogram("infermesh_transformer_lookup_seconds", "Time in Redis.", buckets=LOOKUP_BUCKETS_S)
        up = metrics.gauge("infermesh_transformer_redis_up", "1 while Redis answers.")
        self._lookups = {result: lookups.labels(service, result).inc for result in RESULTS}
        self._seconds = seconds.labels(service).observe
        self._tallies = {view: Tally() for view in views}
        metrics.registry.register(_Views(service, self._tallies))
        self._up = up.labels(service)
        self._faults = {model: faults.labels(service, model) for model in models}
        for model in self._faults:
            self.model_faults(model, -1)

    def looked_up(self, result: str, seconds: float) -> None:
        """Count one lookup."""
        self._lookups[result]()
        if result != "refused":
            self._seconds(seconds)

    def tally(self, view: str) -> Tally:
        """Where is counted what one view gave; all services that use it share it."""
        return self._tallies[view]

    def entities(self, view: str, found: str, count: int) -> None:
        """Count the entities of one view in one request for which the same was found."""
        self._tallies[view].found(found, count)

    def redis_up(self, up: bool) -> None:
        self._up.set(up)

    def model_faults(self, model: str, count: int) -> None:
        self._faults[model].set(count)


class _Views(Collector):
    """What was counted about views, as a scrape finds it."""

    def __init__(self, service: str, tallies: Mapping[str, Tally]) -> None:
        self._service = service
        self._tallies = tallies

    def collect(self) -> Iterator[Metric]:
        prefix, labels = "infermesh_transformer", ("service", "view")
        entities = CounterMetricFamily(f"{prefix}_entities", "Entities by what was found.", labels=(*labels, "status"))
        values = CounterMetricFamily(f"{prefix}_feature_values", "Values by status.", labels=(*labels, "status"))
        ages = HistogramMetricFamily(
            f"{prefix}_feature_age_seconds", "Age of the oldest row of a request.", labels=labels
        )
        for view, tally in self._tallies.items():
            for found, count in tally.entities.items():
                entities.add_metric((self._service, view, found), count)
            for status in Status:
                values.add_metric((self._service, view, status.word), tally.values[status])
            tally.ages.put_into(ages, (self._service, view))
        yield from (entities, values, ages)
