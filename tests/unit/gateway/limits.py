"""What the tests of shared limits put together: limiters over a real Valkey, each as a gateway of its own would have it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from infermesh.call import Call, Caller
from services.gateway.gcra import Gcra
from services.gateway.limit_rules import Plans, rules_of
from services.gateway.limiter import Limiter, Refusal
from services.gateway.limits_config import LimitStoreConfig, RateLimitConfig
from services.gateway.redis_lane import Lane
from services.gateway.redis_limits import RedisLimits
from services.gateway.refusals import Refusals

__all__ = ["Replica", "call_of", "prefix", "replica", "until"]

_numbers = itertools.count()


def prefix() -> str:
    """Keys that no other test has."""
    return f"test-limits-{next(_numbers)}"


def call_of(caller: str = "demo", tenant: str = "acme") -> Call:
    return Call(caller=Caller(caller, tenant=tenant), peer="ipv4:10.0.0.7:1")


class Replica:
    """The limits of one gateway."""

    def __init__(self, config: RateLimitConfig, lane: Lane, clock: Callable[[], float] | None, told: bool) -> None:
        clocked = {"clock": clock} if clock else {}
        self.lane = lane
        self.rules = rules_of(config)
        self.plans = Plans(self.rules, prefix=config.redis.key_prefix, told=told)
        self.limiter = Limiter(Gcra(**clocked), RedisLimits(lane), Gcra(**clocked), Refusals(**clocked))
        self.failures: list[str] = []

    async def ask(self, model: str = "iris", call: Call | None = None, rows: int = 1, size: int = 1) -> Refusal | None:
        call = call or call_of()
        return (await self.limiter.decide(self.plans.of(model, call), (1, rows, size)))[0]

    async def admitted(self, calls: int, **rest: Any) -> int:
        return [await self.ask(**rest) for _ in range(calls)].count(None)

    def outcome(self, name: str, rule: int = 0) -> int:
        return self.rules[rule].outcomes[name]


@asynccontextmanager
async def replica(
    url: str,
    *rules: dict[str, Any],
    clock: Callable[[], float] | None = None,
    lane: Any = None,
    told: bool = False,
    **store: Any,
) -> AsyncIterator[Replica]:
    """A gateway's limits; a busy machine is no slow Redis, unless a test wants one."""
    settings = {"url": url, "key_prefix": prefix(), "timeout": "1s", "probe_every": "20ms", **store}
    shared = [{"name": f"rule{at}", "rate": 10, "burst": 5, **rule} for at, rule in enumerate(rules)]
    config = RateLimitConfig.model_validate({"rate": None, "rules": shared, "redis": settings})
    failures: list[str] = []
    made = (lane or Lane)(LimitStoreConfig.model_validate(settings), observe=failures.append)
    whole = Replica(config, made, clock, told)
    whole.failures = failures
    await made.start(5)
    try:
        yield whole
    finally:
        await made.close()


async def until(true: Callable[[], Any]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)
