"""How the predictor is composed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from infermesh.filters import Measured, Traced, WithinDeadline
from infermesh.runtime import Telemetry
from infermesh.service import Stack, stack
from services.predictor.config import PredictorConfig
from services.predictor.predictor import Predictor
from services.predictor.repository import Repository
from services.predictor.source import open_source

__all__ = ["build"]


@asynccontextmanager
async def build(config: PredictorConfig, telemetry: Telemetry) -> AsyncIterator[Stack]:
    """The predictor, outermost first. Returns when every model of the start-up set has been tried."""
    repository = Repository(config, open_source(config.repository.root))
    telemetry.metrics.registry.register(repository.collector(telemetry.metrics.service))
    try:
        await repository.load_all()
        yield stack(
            *([Traced(telemetry.tracing.span)] if telemetry.tracing.enabled else []),  # its span holds everything below
            Measured(telemetry.metrics.request, repository.label),  # above the deadline: expired calls are counted
            WithinDeadline(
                config.deadline.default, config.deadline.maximum
            ),  # a call that waits for a model has an end
            service=Predictor(repository),
        )
    finally:
        repository.close()
