"""How the gateway is composed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from infermesh.config import parse
from infermesh.filters import Logged, Measured, Retry, RetryBudget, Traced, WithinDeadline
from infermesh.runtime import Telemetry
from infermesh.service import Filter, Stack, stack
from infermesh.transport import RemoteService
from services.gateway.authenticate import Authenticate
from services.gateway.backends import Backend
from services.gateway.config import GatewayConfig
from services.gateway.gcra import Gcra, Limit
from services.gateway.key_ring import KeyRing
from services.gateway.keys import KeysFile
from services.gateway.metrics import GatewayMetrics
from services.gateway.rate_limit import RateLimit
from services.gateway.route_table import RouteTable
from services.gateway.routes import RoutesFile, read_routes
from services.gateway.watched_file import followed

__all__ = ["build"]


@asynccontextmanager
async def build(config: GatewayConfig, telemetry: Telemetry) -> AsyncIterator[Stack]:
    """The gateway, outermost first: the first filter sees a call first and its answer last.

    It is ready at once, whatever its backends do. Below the table a call goes on: Shadow → Split → Retry → RemoteService.
    """
    metrics = GatewayMetrics(telemetry.metrics)
    async with AsyncExitStack() as resources:
        backends = _backends(config, metrics, resources)
        routes = await _routes(config, backends, metrics, resources)
        logged = Logged()
        yield stack(
            *([Traced(telemetry.tracing.span)] if telemetry.tracing.enabled else []),  # its span holds everything below
            Measured(telemetry.metrics.request, routes.label),  # above the policies: what they refuse is counted
            logged,  # above what names the caller, so that the line about a refusal has the name
            *await _authenticate(config, metrics, logged, resources),  # before the rate limit, which counts per caller
            *_rate_limit(config, metrics, logged),  # before any work is done for the call
            # every call below has an end, which RemoteService holds; so no timer of its own
            WithinDeadline(config.deadline.default, config.deadline.maximum, ends_below=True),
            service=routes,
        )


def _backends(config: GatewayConfig, metrics: GatewayMetrics, resources: AsyncExitStack) -> dict[str, Backend]:
    """Every backend of the configuration; channels connect when they are first used."""
    backends = {}
    for name, settings in config.backends.items():
        remote = RemoteService(settings, name)
        resources.push_async_callback(remote.close)
        budget = RetryBudget(config.retry.budget_share, config.retry.budget_minimum)  # one backend's trouble is its own
        retry = Retry(config.retry.attempts, budget, metrics.retry(name))
        filters: tuple[Filter, ...] = (retry,) if config.retry.attempts > 1 else ()
        backends[name] = Backend(name, remote, filters, address=str(settings.target))
    return backends


async def _routes(
    config: GatewayConfig, backends: dict[str, Backend], metrics: GatewayMetrics, resources: AsyncExitStack
) -> RouteTable:
    def read(file: Path) -> RoutesFile:
        return read_routes(file, backends)

    table = RouteTable(config.routes_file(), backends, metrics)
    resources.push_async_callback(table.close)  # copies end before the channels that they use
    watch = followed(config.routes, read, table.swap, metrics.file("routes"), every_s=config.look_every)
    await resources.enter_async_context(watch)
    return table


async def _authenticate(
    config: GatewayConfig, metrics: GatewayMetrics, logged: Logged, resources: AsyncExitStack
) -> list[Filter]:
    def read(file: Path) -> KeysFile:
        return parse(KeysFile, file)

    if config.auth.mode == "off":
        return []
    keys = KeyRing(config.keys_file())
    watch = followed(config.auth.keys, read, keys.swap, metrics.file("keys"), every_s=config.look_every)
    await resources.enter_async_context(watch)
    return [
        Authenticate(
            keys=keys,
            enforce=config.auth.mode == "enforce",
            observe=metrics.refusal(config.auth.mode),
            observe_dropped=metrics.variant_dropped(config.auth.mode),
            tell=logged.not_admitted,
        )
    ]


def _rate_limit(config: GatewayConfig, metrics: GatewayMetrics, logged: Logged) -> list[Filter]:
    limit = config.rate_limit
    if limit.mode == "off":
        return []
    return [
        RateLimit(
            default=Limit.of(limit.rate, limit.burst),
            callers={name: Limit.of(each.rate, each.burst) for name, each in limit.callers.items()},
            enforce=limit.mode == "enforce",
            observe=metrics.rate_limited(limit.mode),
            tell=logged.not_admitted,
            limits=Gcra(limit.max_callers),
        )
    ]
