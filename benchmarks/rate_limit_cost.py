"""What a decision about the rate of a call costs: CPU of the gateway's process in µs per decision, and the time that is waited.

`python -m benchmarks.rate_limit_cost [--decisions 20000] [--redis URL]`

Local: the limit of each caller, and three levels (tenant, model, caller). Redis: one and three levels by one script, one decision
at a time and sixteen; a caller whose refusal is remembered; and a store that is away. Each is the median of seven rounds. CPU of
Redis is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import uvloop

from infermesh.call import Call, Caller
from infermesh.cli.valkey import Valkey
from services.gateway.gcra import Gcra
from services.gateway.limit_rules import Plans, rules_of
from services.gateway.limiter import Limiter
from services.gateway.limits_config import RateLimitConfig
from services.gateway.rate_limit import RateLimit
from services.gateway.redis_lane import Lane
from services.gateway.redis_limits import RedisLimits

ROUNDS = 7
CALL = Call(caller=Caller("demo", tenant="acme"), peer="ipv4:10.0.0.7:1")
LEVELS = [{"name": each, "per": [each], "rate": 1e6, "burst": 10**6} for each in ("tenant", "model", "caller")]


async def measure(name: str, ask: Callable[[], Awaitable[object]], decisions: int, at_a_time: int = 1) -> None:
    """Print the medians of the rounds."""
    cpu_us, waits_us = [], []
    for _ in range(ROUNDS):
        each = decisions // ROUNDS // at_a_time
        waited: list[float] = []

        async def some(each: int = each, waited: list[float] = waited) -> None:
            for _ in range(each):
                began = time.perf_counter()
                await ask()
                waited.append(time.perf_counter() - began)

        began = time.process_time()
        await asyncio.gather(*(some() for _ in range(at_a_time)))
        cpu_us.append((time.process_time() - began) * 1e6 / (each * at_a_time))
        waits_us += [wait * 1e6 for wait in waited]
    waits_us.sort()
    p50, p99 = waits_us[len(waits_us) // 2], waits_us[int(len(waits_us) * 0.99)]
    print(f"{name:42} {statistics.median(cpu_us):8.2f} {p50:10.1f} {p99:10.1f}")


def _filter(config: dict[str, Any], lane: Lane | None, prefix: str = "cost") -> RateLimit:
    rules = rules_of(RateLimitConfig.model_validate({**config, "redis": {"url": "redis://x", "key_prefix": prefix}}))
    shared = RedisLimits(lane) if lane is not None else None
    return RateLimit(plans=Plans(rules, prefix=prefix), limiter=Limiter(Gcra(), shared), observe=lambda *each: None)


async def _all(decisions: int, url: str) -> None:
    def asking(limit: RateLimit) -> Callable[[], Awaitable[None]]:
        return lambda: limit.admit("ModelInfer", "iris", "", CALL)

    local = [{**level, "store": "local"} for level in LEVELS]
    print(f"{'':42} {'CPU µs':>8} {'p50 µs':>10} {'p99 µs':>10}")
    await measure("local, each caller", asking(_filter({"rate": 1e6, "burst": 10**6}, None)), decisions * 5)
    await measure("local, three levels", asking(_filter({"rate": None, "rules": local}, None)), decisions * 5)

    store = RateLimitConfig.model_validate({"redis": {"url": url, "key_prefix": "cost", "timeout": "100ms"}}).redis
    lane = Lane(store)
    await lane.start(5)
    for levels in (LEVELS[:1], LEVELS):
        limit = _filter({"rate": None, "rules": levels}, lane)
        for at_a_time in (1, 16):
            await measure(f"Redis, {len(levels)} level(s), {at_a_time} at a time", asking(limit), decisions, at_a_time)
    refused = _filter({"rate": None, "rules": [{**LEVELS[0], "rate": 0.01, "burst": 1}]}, lane)
    plan = refused.plans.of("iris", CALL)
    for _ in range(2):
        await refused.limiter.decide(plan, (1, 0, 0))
    await measure("Redis, refusal remembered", lambda: refused.limiter.decide(plan, (1, 0, 0)), decisions * 5)
    await lane.close()
    await measure("Redis away, local instead", asking(limit), decisions * 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--redis", default="", help="address; left out: a Valkey of its own")
    given = parser.parse_args()
    with nullcontext() if given.redis else Valkey() as valkey:
        uvloop.run(_all(given.decisions, given.redis or valkey.url))


if __name__ == "__main__":
    main()
