"""What the transformer counts about features."""

from __future__ import annotations

from collections.abc import Iterable

from infermesh.telemetry import Metrics
from services.transformer.redis.cached import Cache
from services.transformer.scrapes import Caches, Lookups, Views
from services.transformer.tally import LookupTally, Tally

__all__ = ["FeatureMetrics"]


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
    | `infermesh_transformer_cache_keys_total` | service, result | keys by what was cached: hit, negative, miss, kept |
    | `infermesh_transformer_cache_invalidations_total` | service | keys that Redis said have changed |
    | `infermesh_transformer_cache_flushes_total` | service | times that everything was forgotten |
    | `infermesh_transformer_cache_evictions_total` | service | entries that went for want of bytes |
    | `infermesh_transformer_cache_entries` | service | entries that are there |
    | `infermesh_transformer_cache_bytes` | service | their memory |
    | `infermesh_transformer_model_faults` | service, model | in how much file and model disagree; -1: not asked yet |
    """

    def __init__(self, metrics: Metrics, views: Iterable[str], models: Iterable[str]) -> None:
        service = metrics.service
        faults = metrics.gauge(
            "infermesh_transformer_model_faults", "Disagreements with the model's metadata.", "model"
        )
        up = metrics.gauge("infermesh_transformer_redis_up", "1 while Redis answers.")
        self.lookups = LookupTally()
        self._tallies = {view: Tally() for view in views}
        self._caches: list[Cache] = []
        for collector in (
            Lookups(service, self.lookups),
            Views(service, self._tallies),
            Caches(service, self._caches),
        ):
            metrics.registry.register(collector)
        self._up = up.labels(service)
        self._faults = {model: faults.labels(service, model) for model in models}
        for model in self._faults:
            self.model_faults(model, -1)

    def tally(self, view: str) -> Tally:
        """Where is counted what one view gave; all services that use it share it."""
        return self._tallies[view]

    def cache(self, cache: Cache) -> None:
        """Tell of a cache from now on."""
        self._caches.append(cache)

    def redis_up(self, up: bool) -> None:
        self._up.set(up)

    def model_faults(self, model: str, count: int) -> None:
        self._faults[model].set(count)
