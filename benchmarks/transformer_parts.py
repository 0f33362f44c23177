"""The parts of the transformer's hop alone, in this process: CPU in µs of a request."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvloop

from benchmarks.feature_rows import MODEL, feature_file, request_for
from infermesh.deadline import NO_DEADLINE
from infermesh.telemetry import Metrics
from services.transformer.config import RedisConfig
from services.transformer.metrics import FeatureMetrics
from services.transformer.plan import JoinPlan
from services.transformer.policy import micros
from services.transformer.store import FeatureStore
from services.transformer.views import FeatureFile

__all__ = ["Parts", "measure_parts"]

ROUNDS = 9
CALLS = 2000  # of one entity in a round; fewer of larger ones


@dataclass(frozen=True, slots=True)
class Parts:
    """CPU in µs of a request; `at_a_time` lookups were under way together, each of other cards."""

    keys_us: float
    lookup_us: float
    join_us: float
    at_a_time: int


def measure_parts(url: str, first: int, count: int, *, at_a_time: int, calls: int = CALLS) -> Parts:
    """Each is the median of rounds. What the server's loop, gRPC and the filters cost is in none of them.

    There must be `at_a_time` times `count` cards from `first` on.
    """
    parts: Parts = uvloop.run(_measure(url, first, count, at_a_time, max(at_a_time, calls // max(1, count // 4))))
    return parts


async def _measure(url: str, first: int, count: int, at_a_time: int, calls: int) -> Parts:
    file = FeatureFile.model_validate(feature_file())
    metrics = FeatureMetrics(Metrics("transformer"), file.views, file.services)
    config = RedisConfig.model_validate({"url": url, "timeout": "5s"})
    plan = JoinPlan(
        file, file.services[MODEL], prefix=config.key_prefix, max_entities=config.max_entities, tally=metrics.tally
    )
    request = request_for(first, count)
    entities = plan.read(request)
    assert entities is not None
    keys = plan.keys(entities)
    store = FeatureStore(config, metrics)
    found = await store.lookup(keys, NO_DEADLINE)  # connects, too
    now_us = micros(time.time())

    def read() -> object:
        got = plan.read(request)
        assert got is not None
        return plan.keys(got)

    others = [plan.read(request_for(first + count * worker, count)) for worker in range(at_a_time)]
    asked = [plan.keys(each) for each in others if each is not None]  # apart: what is under way is not asked for again

    async def lookups(keys: list[bytes]) -> None:
        for _ in range(calls // at_a_time):
            await store.lookup(keys, NO_DEADLINE)

    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        await asyncio.gather(*map(lookups, asked))
        rounds.append((time.process_time() - began) / (calls // at_a_time * at_a_time) * 1e6)
    await store.close()
    return Parts(
        _cost_us(read, calls),
        statistics.median(rounds),
        _cost_us(lambda: plan.join(request, entities, found, now_us), calls),
        at_a_time,
    )


def _cost_us(work: Callable[[], Any], calls: int) -> float:
    work()
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(calls):
            work()
        rounds.append((time.process_time() - began) / calls * 1e6)
    return statistics.median(rounds)
