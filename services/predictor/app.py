"""How the predictor is composed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from infermesh.filters import Measured, Traced, WithinDeadline
from infermesh.runtime import Telemetry
from infermesh.service import Stack, stack
from services.predictor.config import PredictorConfig
from services.predictor.metrics import RepositoryCollector, VersionsCollector
from services.predictor.predictor import Predictor
from services.predictor.repository.repository import Repository
from services.predictor.repository.watch import kept_up
from services.predictor.source import open_source

__all__ = ["build"]


@asynccontextmanager
async def build(config: PredictorConfig, telemetry: Telemetry) -> AsyncIterator[Stack]:
    """The predictor, outermost first. It is open when every model of the start-up set has been tried, or their root is away: then
    it is not ready until it has tried them."""
    source = open_source(config.repository.root, config.repository.cache, config.repository.storage_options)
    repository = Repository(config, source)
    for collector in (VersionsCollector, RepositoryCollector):
        telemetry.metrics.registry.register(collector(repository, telemetry.metrics.service))
    try:
        await repository.load_all()
        async with kept_up(repository):
            yield stack(
                *([Traced(telemetry.tracing.span)] if telemetry.tracing.enabled else []),  # holds everything below
                Measured(telemetry.metrics.request, repository.label),  # above the deadline: expired calls are counted
                WithinDeadline(
                    config.deadline.default, config.deadline.maximum
                ),  # a call that waits for a model has an end
                service=Predictor(repository),
            )
    finally:
        repository.close()
