"""How the explainer is composed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from infermesh.filters import Measured, Retry, RetryBudget, Traced, WithinDeadline
from infermesh.runtime import Telemetry
from infermesh.service import Filter, Stack, stack
from infermesh.telemetry import EndpointMetrics, Metrics
from infermesh.transport import RemoteService
from services.explainer.backgrounds import Backgrounds
from services.explainer.config import ExplainerConfig
from services.explainer.explain import Observe
from services.explainer.explainer import Explainer
from services.explainer.graph import ModelGraph
from services.explainer.methods.run import Graphs, no_graphs
from services.explainer.model_files import ModelFiles

__all__ = ["build"]


@asynccontextmanager
async def build(config: ExplainerConfig, telemetry: Telemetry) -> AsyncIterator[Stack]:
    """The explainer, outermost first. Ready as soon as the backgrounds are read; the backend may come later.

    Below it each ModelInfer goes on: Retry → RemoteService.
    """
    backgrounds = await Backgrounds.read(config.backgrounds)
    observe_tls = telemetry.metrics.certificates(config.backend)
    endpoints = EndpointMetrics(telemetry.metrics).of(config.backend)
    backend = RemoteService(config.backends[config.backend], config.backend, observe=endpoints, observe_tls=observe_tls)
    asked = stack(*_retry(config, telemetry.metrics), service=backend)
    files = ModelFiles(config.models.root) if config.models.root else None
    explainer = Explainer(
        asked,
        backgrounds,
        config,
        observe=_observer(telemetry.metrics),
        graphs=_graphs_of(files) if files else no_graphs,
    )
    try:
        yield stack(
            *([Traced(telemetry.tracing.span)] if telemetry.tracing.enabled else []),  # its span holds everything below
            Measured(telemetry.metrics.request, explainer.label),  # above the deadline: expired calls are counted
            WithinDeadline(config.deadline.default, config.deadline.maximum),  # sampling goes by the end that this sets
            service=explainer,
        )
    finally:
        explainer.close()
        if files:
            files.close()
        await backend.close()


def _graphs_of(files: ModelFiles) -> Graphs:
    async def graph(model: str, version: str, output: str) -> ModelGraph | str:
        found = await files.find(model, version, output)
        return found.graph or found.reason

    return graph


def _retry(config: ExplainerConfig, metrics: Metrics) -> list[Filter]:
    """Here and not only at the gateway, which would have the whole explanation made anew."""
    if config.retry.attempts == 1:
        return []
    counter = metrics.counter("infermesh_explainer_retries_total", "Retries of ModelInfers.", "outcome")
    counts = {
        each: counter.labels(metrics.service, each).inc for each in ("retried", "no_budget", "no_time", "pushed_back")
    }
    budget = RetryBudget(config.retry.budget_share, config.retry.budget_minimum)
    return [Retry(config.retry.attempts, budget, lambda outcome: counts[outcome]())]


def _observer(metrics: Metrics) -> Observe:
    asks = metrics.counter("infermesh_explainer_asks_total", "ModelInfers that explanations made.", "model", "method")
    rows = metrics.counter("infermesh_explainer_rows_total", "Rows in them.", "model", "method")

    def observe(model: str, method: str, asked: int, sent: int) -> None:
        asks.labels(metrics.service, model, method).inc(asked)
        rows.labels(metrics.service, model, method).inc(sent)

    return observe
