"""What the transformer counts about features."""

from __future__ import annotations

from collections.abc import Iterable

from infermesh.telemetry import Metrics
from services.transformer.policy import FOUND

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
    | `infermesh_transformer_redis_up` | service | 1 while Redis answers |
    | `infermesh_transformer_model_faults` | service, model | in how much file and model disagree; -1: not asked yet |
    """

    def __init__(self, metrics: Metrics, views: Iterable[str], models: Iterable[str]) -> None:
        service = metrics.service
        lookups = metrics.counter("infermesh_transformer_lookups_total", "Lookups by result.", "result")
        entities = metrics.counter(
            "infermesh_transformer_entities_total", "Entities by what was found.", "view", "status"
        )
        faults = metrics.gauge(
            "infermesh_transformer_model_faults", "Disagreements with the model's metadata.", "model"
        )
        seconds = metrics.histogram("infermesh_transformer_lookup_seconds", "Time in Redis.", buckets=LOOKUP_BUCKETS_S)
        up = metrics.gauge("infermesh_transformer_redis_up", "1 while Redis answers.")
        self._lookups = {result: lookups.labels(service, result).inc for result in RESULTS}
        self._seconds = seconds.labels(service).observe
        self._entities = {(v, found): entities.labels(service, v, found).inc for v in views for found in FOUND}
        self._up = up.labels(service)
        self._faults = {model: faults.labels(service, model) for model in models}
        for model in self._faults:
            self.model_faults(model, -1)

    def looked_up(self, result: str, seconds: float) -> None:
        """Count one lookup."""
        self._lookups[result]()
        if result != "refused":
            self._seconds(seconds)

    def entities(self, view: str, found: str, count: int) -> None:
        """Count the entities of one view in one request for which the same was found."""
        self._entities[view, found](count)

    def redis_up(self, up: bool) -> None:
        self._up.set(up)

    def model_faults(self, model: str, count: int) -> None:
        self._faults[model].set(count)
