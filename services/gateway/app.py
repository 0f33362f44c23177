"""How the gateway is composed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from infermesh.config import parse
from infermesh.filters import Logged, Measured, Retry, RetryBudget, Traced
from infermesh.runtime import Telemetry
from infermesh.service import Filter, Stack, stack
from infermesh.telemetry import EndpointMetrics
from infermesh.transport import RemoteService
from services.gateway.audit.audited import Admitted, Attempted
from services.gateway.audit.start import audited
from services.gateway.authenticate import Authenticate
from services.gateway.backends import Backend
from services.gateway.compare_metrics import CompareMetrics
from services.gateway.comparer import Comparer
from services.gateway.concurrency import ConcurrencyLimit, shares
from services.gateway.config import GatewayConfig
from services.gateway.gcra import Gcra
from services.gateway.jwks import KeySet, read_jwks_file
from services.gateway.jwt_fetch import fetch
from services.gateway.jwt_keys import FetchedKeys
from services.gateway.jwt_tokens import Tokens
from services.gateway.key_ring import KeyRing
from services.gateway.keys import KeysFile
from services.gateway.limit_metrics import ConcurrencyMetrics, LimitMetrics
from services.gateway.limit_rules import Plans, rules_of
from services.gateway.limiter import Limiter, Shared
from services.gateway.limits_config import LimitStoreConfig
from services.gateway.metrics import GatewayMetrics
from services.gateway.overload import LoopLag
from services.gateway.payload.start import payload_logged
from services.gateway.rate_limit import RateLimit, RateLimitByCost
from services.gateway.readiness import ReadinessWatch
from services.gateway.refusals import Refusals
from services.gateway.resilience import Resilience
from services.gateway.route_table import RouteTable
from services.gateway.routes_reader import read_routes_apart
from services.gateway.watched_file import followed

__all__ = ["build"]


@asynccontextmanager
async def build(config: GatewayConfig, telemetry: Telemetry) -> AsyncIterator[Stack]:
    """The gateway, outermost first: the first filter sees a call first and its answer last.

    It is ready at once, whatever its backends do. Below the table a call goes on:
    WithinDeadline → Shadow → Fallback → Split → EnoughTime → CircuitBreaker → ConcurrencyLimit → Retry → RemoteService.
    """
    metrics = GatewayMetrics(telemetry.metrics)
    async with AsyncExitStack() as resources:
        backends = _backends(config, metrics, telemetry, resources)
        comparer = await _comparer(config, telemetry, resources)
        routes = await _routes(config, backends, metrics, comparer, resources)
        logged = Logged()
        gateway = stack(
            *([Traced(telemetry.tracing.span)] if telemetry.tracing.enabled else []),  # its span holds everything below
            Measured(telemetry.metrics.request, routes.label),  # above the policies: what they refuse is counted
            logged,  # above what names the caller, so that the line about a refusal has the name
            *await _audit(config, telemetry, routes, resources),  # outside of what refuses: its refusals have lines too
            *await _authenticate(config, metrics, logged, resources),  # before the rate limit, which counts per caller
            # before any work is done for the call
            *await _rate_limit(config, metrics, telemetry, logged, routes, resources),
            *([Admitted()] if config.audit.mode != "off" else []),
            *await _payload_log(config, telemetry, routes, resources),  # of what was let in
            service=routes,  # WithinDeadline is the outermost filter of each route, which may have its own
        )
        if comparer is not None:
            gateway.tools = comparer.tools(gateway.admit)
        yield gateway


def _backends(
    config: GatewayConfig, metrics: GatewayMetrics, telemetry: Telemetry, resources: AsyncExitStack
) -> dict[str, Backend]:
    """Every backend of the configuration; channels connect when they are first used."""
    backends = {}
    endpoints = EndpointMetrics(telemetry.metrics)
    concurrency = ConcurrencyMetrics(telemetry.metrics) if config.concurrency.mode != "off" else None
    for name, settings in config.backends.items():
        certificates = telemetry.metrics.certificates(name)
        remote = RemoteService(settings, name, observe=endpoints.of(name), observe_tls=certificates)
        resources.push_async_callback(remote.close)
        budget = RetryBudget(config.retry.budget_share, config.retry.budget_minimum)  # one backend's trouble is its own
        longest_s = config.retry.longest_pause
        retry = Retry(config.retry.attempts, budget, metrics.retry(name), longest_pause_s=longest_s)
        filters: tuple[Filter, ...] = (retry,) if config.retry.attempts > 1 else ()
        if config.audit.mode != "off":
            filters = (*filters, Attempted(name))  # inside of retries: each attempt by itself
        limit = _concurrency_limit(config, name, concurrency)  # outside of retries: all attempts of a call are one
        backends[name] = Backend(name, remote, limit + filters, address=str(settings.target), copy_filters=limit)
    return backends


def _concurrency_limit(
    config: GatewayConfig, backend: str, metrics: ConcurrencyMetrics | None
) -> tuple[ConcurrencyLimit, ...]:
    """One for predictions, explanations and copies together, since they meet at the backend."""
    settings = config.concurrency
    if metrics is None:
        return ()
    limit = ConcurrencyLimit(
        backend=backend,
        most=shares(settings, backend),
        background_from=settings.background_from,
        enforce=settings.mode == "enforce",
        observe=metrics.shed(backend, settings.mode),
    )
    metrics.in_flight(backend, lambda: limit.in_flight)
    return (limit,)


async def _comparer(config: GatewayConfig, telemetry: Telemetry, resources: AsyncExitStack) -> Comparer | None:
    """What compares the answers of shadows; closed when the copies have ended."""
    if not config.compare.enabled:
        return None
    metrics = CompareMetrics(telemetry.metrics)
    comparer = Comparer(config.compare, metrics)
    feed = comparer.feed
    metrics.process(comparer.gauges, lambda: feed.restarts, lambda: feed.waiting_bytes)
    resources.push_async_callback(comparer.close)
    await comparer.start()
    return comparer


async def _routes(
    config: GatewayConfig,
    backends: dict[str, Backend],
    metrics: GatewayMetrics,
    comparer: Comparer | None,
    resources: AsyncExitStack,
) -> RouteTable:
    resilience = Resilience(config.deadline, config.breaker, metrics)
    readiness = ReadinessWatch()
    lag = LoopLag(config.mirroring.suppress_lag)
    resources.callback(lag.close)
    table = RouteTable(
        config.routes_file(),
        backends,
        metrics,
        resilience=resilience,
        watch=readiness,
        comparer=comparer,
        overloaded=lag.is_over,
    )
    metrics.standing(table.standing)
    resources.push_async_callback(table.close)  # copies end before the channels that they use
    resources.push_async_callback(readiness.close)  # and probes too
    readiness.start()
    read = partial(read_routes_apart, backends=tuple(backends))
    watch = followed(config.routes, read, table.take_over, metrics.file("routes"), every_s=config.look_every)
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
    if config.auth.keys is not None:
        watch = followed(config.auth.keys, read, keys.swap, metrics.file("keys"), every_s=config.look_every)
        await resources.enter_async_context(watch)
    return [
        Authenticate(
            keys=keys,
            tokens=await _tokens(config, metrics, resources),
            enforce=config.auth.mode == "enforce",
            observe=metrics.refusal(config.auth.mode),
            observe_dropped=metrics.variant_dropped(config.auth.mode),
            tell=logged.not_admitted,
        )
    ]


async def _tokens(config: GatewayConfig, metrics: GatewayMetrics, resources: AsyncExitStack) -> Tokens | None:
    """What verifies tokens; the issuer's keys are followed in the background, and nobody waits for them here."""
    jwt = config.auth.jwt
    if jwt is None:
        return None
    keys = KeySet()
    if jwt.jwks_file is not None:
        keys.swap(await asyncio.to_thread(config.token_keys))
        read = partial(read_jwks_file, jwt)
        watch = followed(jwt.jwks_file, read, keys.swap, metrics.file("jwks"), every_s=config.look_every)
        await resources.enter_async_context(watch)
        return Tokens(jwt, keys)
    fetched = FetchedKeys(
        keys,
        partial(fetch, jwt.jwks_url, timeout_s=jwt.timeout, ca=jwt.jwks_ca),
        jwt.algorithms,
        refresh_s=jwt.refresh,
        refetch_s=jwt.refetch,
        observe=metrics.file("jwks"),
    )
    task = asyncio.ensure_future(fetched.run())

    async def end() -> None:
        task.cancel()
        await asyncio.wait({task})

    resources.push_async_callback(end)
    return Tokens(jwt, keys, newer=fetched.newer)


async def _rate_limit(
    config: GatewayConfig,
    metrics: GatewayMetrics,
    telemetry: Telemetry,
    logged: Logged,
    routes: RouteTable,
    resources: AsyncExitStack,
) -> list[Filter]:
    limit = config.rate_limit
    rules = rules_of(limit)
    if limit.mode == "off" or not rules:
        return []
    is_shared = any(rule.shared for rule in rules)
    counted = LimitMetrics(telemetry.metrics, rules, shared=is_shared)
    shared = await _shared_limits(limit.redis, counted, resources) if is_shared else None
    most = limit.max_callers
    past = {mode: metrics.rate_limited(mode) for mode in ("enforce", "observe")}
    kind = RateLimitByCost if any(rule.cost for rule in rules) else RateLimit
    return [
        kind(
            plans=Plans(rules, prefix=limit.redis.key_prefix, label=routes.label, max_plans=most, told=limit.metadata),
            limiter=Limiter(Gcra(most), shared, Gcra(most), Refusals(most)),
            observe=lambda caller, mode: past[mode](caller),
            tell=logged.not_admitted,
            told=limit.metadata,
        )
    ]


async def _audit(
    config: GatewayConfig, telemetry: Telemetry, routes: RouteTable, resources: AsyncExitStack
) -> list[Filter]:
    if config.audit.mode == "off":
        return []
    return [await resources.enter_async_context(audited(config.audit, telemetry.metrics, routes.label))]


async def _payload_log(
    config: GatewayConfig, telemetry: Telemetry, routes: RouteTable, resources: AsyncExitStack
) -> list[Filter]:
    if config.payload_log.mode == "off":
        return []
    return [await resources.enter_async_context(payload_logged(config.payload_log, telemetry.metrics, routes.label))]


async def _shared_limits(config: LimitStoreConfig, counted: LimitMetrics, resources: AsyncExitStack) -> Shared:
    # Not at the top: redis-py is 10 MB that a gateway whose limits are all its own does without.
    from services.gateway.redis_lane import Lane
    from services.gateway.redis_limits import RedisLimits

    lane = Lane(config, observe=counted.store_failed, observe_away=counted.store_away)
    resources.push_async_callback(lane.close)
    await lane.start()
    return RedisLimits(lane)
