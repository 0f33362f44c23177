"""How the transformer is composed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from infermesh.config import ConfigError
from infermesh.filters import Measured, Traced, WithinDeadline
from infermesh.names import EXPLAINER_SUFFIX
from infermesh.runtime import Telemetry
from infermesh.service import Filter, Stack, stack
from infermesh.telemetry import EndpointMetrics
from infermesh.transport import RemoteService
from services.transformer.after.build import after_models
from services.transformer.backends import Backends
from services.transformer.check_models import watch_models
from services.transformer.config import TransformerConfig
from services.transformer.hooks import HookFault
from services.transformer.join_features import JoinFeatures
from services.transformer.metrics import FeatureMetrics
from services.transformer.plan import JoinPlan
from services.transformer.served.log import served_log
from services.transformer.store import FeatureStore

__all__ = ["build", "plans_of"]

_log = logging.getLogger(__name__)


@asynccontextmanager
async def build(config: TransformerConfig, telemetry: Telemetry) -> AsyncIterator[Stack]:
    """The transformer, outermost first. It is ready at once: neither Redis nor a backend is waited for."""
    file = config.feature_file()
    metrics = FeatureMetrics(telemetry.metrics, file.views, file.services)
    plans = plans_of(config, metrics)
    after = after_models(config, telemetry.metrics)
    async with AsyncExitStack() as resources:
        certificates = telemetry.metrics.certificates
        endpoints = EndpointMetrics(telemetry.metrics)
        remotes = {
            n: RemoteService(b, n, observe=endpoints.of(n), observe_tls=certificates(n))
            for n, b in config.backends.items()
        }
        for remote in remotes.values():
            resources.push_async_callback(remote.close)
        backends = Backends(
            remotes, config.routing, plans, same_as=lambda name: str(config.backends[name].target), after=after
        )
        filters: list[Filter] = [
            *([Traced(telemetry.tracing.span)] if telemetry.tracing.enabled else []),  # its span holds everything below
            Measured(
                telemetry.metrics.request, backends.label
            ),  # above the deadline, so that expired calls are counted
            WithinDeadline(
                config.deadline.default, config.deadline.maximum
            ),  # before the lookup, which takes a share of it
        ]
        if plans:
            store = FeatureStore(config.redis, metrics)
            resources.push_async_callback(store.close)
            log = await resources.enter_async_context(served_log(config.served_log, telemetry.metrics))
            filters.append(JoinFeatures(plans, store, backends, log=log))
            models = {
                name: plans[name] for name in file.services
            }  # of explainers and models alike, asked of the models
            for work in (store.watch(), watch_models(models, backends, metrics.model_faults)):
                resources.push_async_callback(_end, asyncio.ensure_future(work))
        yield stack(*filters, service=backends)


def plans_of(config: TransformerConfig, metrics: FeatureMetrics) -> dict[str, JoinPlan]:
    """What joining means, by the name of the model that is asked for; a model and its explainer share it. Raises ConfigError."""
    file = config.feature_file()
    plans, faults = {}, []
    for model, service in file.services.items():
        try:
            plan = JoinPlan(
                file,
                service,
                prefix=config.redis.key_prefix,
                max_entities=config.redis.max_entities,
                tally=metrics.tally,
            )
        except HookFault as fault:
            faults.append(f"services.{model}.hook: {fault}")
            continue
        plans[model] = plan
        if config.routing.explanations:
            plans[model + EXPLAINER_SUFFIX] = plan
    if faults:
        raise ConfigError(str(config.features), faults)
    return plans


async def _end(task: asyncio.Future[None]) -> None:
    """Cancel and wait; what the task has failed with is logged and ends nothing else."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("background work had failed", exc_info=error)
