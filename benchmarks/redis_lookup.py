"""What a lookup costs: 50 FP32 features of one view, as packed rows, in a Valkey of its own on loopback.

`python -m benchmarks.redis_lookup [--rounds 9] [--entities 2000]`

Valkey is pinned to one core, this process to the other. First one request at a time: the time from keys to tensor, through
`FeatureStore.lookup`, policy and columns. Then 32 at a time: rows for each second of this process' CPU, beside redis-py's asyncio
client on the same server, which reads plain hashes with readable fields (one HMGET, and a pipeline of them) and turns their
text into an array: once up to the values as they came, once up to the array. Last, both read these hashes. The peers take turns
within each round, and a ratio is the median over the rounds. It is CPU of the client alone: Valkey's own is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import uvloop
from redis.asyncio import Redis

from benchmarks.processes import LOAD_CORE, SERVER_CORE, machine
from infermesh.cli.valkey import Valkey
from infermesh.deadline import NO_DEADLINE
from infermesh.telemetry import Metrics
from infermesh.tensors import Array
from services.transformer.columns import Columns
from services.transformer.config import RedisConfig
from services.transformer.entities import Entities
from services.transformer.fetch import fetched
from services.transformer.metrics import FeatureMetrics
from services.transformer.policy import RowPolicy, micros
from services.transformer.row import RowFormat
from services.transformer.store import FeatureStore
from services.transformer.tally import Tally
from services.transformer.use import Use
from services.transformer.views import FeatureView, UsedView

FEATURES = 50
NAMES = [f"average_amount_{number}d" for number in range(FEATURES)]
AT_A_TIME = 32
P50_MS = {1: 0.15, 100: 0.4, 500: 1.5}  # what issue 6 asks for
LEAST = {1: 8.0, 100: 40.0}  # of packed rows, up to the values
ALONE = 2000  # requests of one entity in a round; fewer of larger ones

Ask = Callable[[int, int], Awaitable[Any]]  # the first entity, and how many


class Ours:
    """Keys to tensor as the transformer does it."""

    def __init__(self, url: str) -> None:
        features = [{"name": name, "datatype": "FP32", "default": 0.0} for name in NAMES]
        view = FeatureView.model_validate({"entity": {"name": "card"}, "features": features})
        self.policy = RowPolicy("card", view, set(NAMES), lambda found, count: None)
        self.columns = Columns([("card", name) for name in NAMES], {"card": self.policy.format}, "FP32")
        metrics = FeatureMetrics(Metrics("transformer"), ["card"], ["m"])
        self.store = FeatureStore(RedisConfig.model_validate({"url": url, "timeout": "5s"}), metrics)

    @property
    def format(self) -> RowFormat:
        return self.policy.format

    async def lookup(self, first: int, count: int) -> list[bytes | None]:
        keys = [b"infermesh:card:%d" % number for number in range(first, first + count)]
        return await self.store.lookup(keys, NO_DEADLINE)

    async def ask(self, first: int, count: int) -> Array:
        ids = [b"%d" % number for number in range(first, first + count)]
        found = await self.store.lookup([b"infermesh:card:" + each for each in ids], NO_DEADLINE)
        rows, _ = self.policy.serve(found, ids, micros(time.time()))
        return self.columns.take({"card": rows})


class OurHashes:
    """The peer's own hashes, read by us: one HMGET for each, their text made into packed rows."""

    def __init__(self, ours: Ours) -> None:
        features = [{"name": name, "datatype": "FP32", "default": 0.0} for name in NAMES]
        layout = {"kind": "hash", "key": "hash:{entity}"}
        view = FeatureView.model_validate({"entity": {"name": "card"}, "features": features, "layout": layout})
        self.use = Use("card", UsedView(view, "card", ("card",)), NAMES, "infermesh", Tally())
        self.ours = ours

    async def ask(self, first: int, count: int) -> Array:
        ids = {"card": [b"%d" % number for number in range(first, first + count)]}
        found = await fetched([self.use], Entities(count, [0], ids), self.ours.store, NO_DEADLINE)
        rows, _ = self.use.policy.serve(found, ids["card"], micros(time.time()))
        return self.ours.columns.take({"card": rows})


class Theirs:
    """redis-py's asyncio client with hiredis, and hashes with readable fields."""

    def __init__(self, url: str) -> None:
        self.client = Redis.from_url(url)

    async def lookup(self, first: int, count: int) -> list[list[bytes]]:
        if count == 1:
            return [await self.client.hmget(f"hash:{first}", NAMES)]  # type: ignore[misc]
        pipe = self.client.pipeline(transaction=False)
        for number in range(first, first + count):
            pipe.hmget(f"hash:{number}", NAMES)
        found: list[list[bytes]] = await pipe.execute()
        return found

    async def ask(self, first: int, count: int) -> Array:
        return np.array(await self.lookup(first, count), dtype="S").astype(np.float32)


async def _filled(ours: Ours, hashes: OurHashes, theirs: Theirs, entities: int) -> None:
    values = np.random.default_rng(7).normal(50, 20, (entities, FEATURES)).astype(np.float32)
    now = micros(time.time())
    for start in range(0, entities, 500):
        pipe = theirs.client.pipeline(transaction=False)
        for number in range(start, min(start + 500, entities)):
            row = values[number].tolist()
            pipe.set(f"infermesh:card:{number}", ours.format.pack(row, now))
            pipe.hset(f"hash:{number}", mapping={n: f"{v:.9g}" for n, v in zip(NAMES, row, strict=True)})
        await pipe.execute()
    for count in (1, 100):
        assert np.array_equal(await ours.ask(3, count), await theirs.ask(3, count)), "the two read different values"
        assert np.array_equal(await hashes.ask(3, count), await theirs.ask(3, count)), "hashes hold different values"


async def _alone(ask: Ask, count: int, entities: int) -> tuple[float, float]:
    """p50 and p99 of one request at a time, in ms."""
    times = []
    for turn in range(ALONE // (1 if count == 1 else 4)):
        first = turn * 7 % (entities - count)
        began = time.perf_counter()
        await ask(first, count)
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return times[len(times) // 2], times[int(len(times) * 0.99)]


async def _together(ask: Ask, count: int, entities: int, requests: int) -> float:
    """Rows for each second of CPU, 32 requests at a time on entities of their own."""

    async def some(worker: int) -> None:
        for turn in range(requests // AT_A_TIME):
            await ask((worker * 61 + turn * 7) % (entities - count), count)

    began = time.process_time()
    await asyncio.gather(*(some(worker) for worker in range(AT_A_TIME)))
    return requests // AT_A_TIME * AT_A_TIME * count / (time.process_time() - began)


async def _pairs(one: Ask, other: Ask, count: int, entities: int, rounds: int) -> tuple[list[float], list[float]]:
    """Rows for each CPU second of two peers, in rounds in which they take turns to begin."""
    mine: list[float] = []
    its: list[float] = []
    for turn in range(rounds):
        order = [(one, mine, 12_800 if count == 1 else 960), (other, its, 1_920 if count == 1 else 64)]
        for ask, results, requests in order if turn % 2 == 0 else reversed(order):
            results.append(await _together(ask, count, entities, requests))
    return mine, its


def _told(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


async def _all(url: str, rounds: int, entities: int) -> None:
    ours, theirs = Ours(url), Theirs(url)
    hashes = OurHashes(ours)
    await _filled(ours, hashes, theirs, entities)
    print(f"{machine()}\nmedian of {rounds} rounds (range); {os.getloadavg()[0]:.1f} runnable: not idle if over 1\n")
    for count, most in P50_MS.items():
        pairs = [await _alone(ours.ask, count, entities) for _ in range(rounds)]
        p50, p99 = ([pair[at] for pair in pairs] for at in (0, 1))
        fits = "" if statistics.median(p50) <= most else "   MISSED"
        print(
            f"{count:4} entities, one request at a time: p50 ms {_told(p50)}, at most {most:g}; p99 ms {_told(p99)}{fits}"
        )
    print(f"\nrows per CPU second, {AT_A_TIME} requests at a time")
    names = {1: "HMGET", 100: "a pipeline of HMGET"}
    for count, least in LEAST.items():
        for what, one, other in (
            ("values", ours.lookup, theirs.lookup),
            ("array", ours.ask, theirs.ask),
            ("array, of the same hashes", hashes.ask, theirs.ask),
        ):
            mine, its = await _pairs(one, other, count, entities, rounds)
            ratios = [each / peer for each, peer in zip(mine, its, strict=True)]
            wanted = f", at least {least:g}" if what == "values" else ""
            fits = "   MISSED" if wanted and statistics.median(ratios) < least else ""
            print(f"{count:4} rows, to the {what}: ours {_told(mine)}; redis-py, {names[count]}: {_told(its)}")
            print(f"           ours to redis-py's: {_told(ratios)}{wanted}{fits}")
    await theirs.client.aclose()
    await ours.store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--entities", type=int, default=2000)
    given = parser.parse_args()
    with Valkey() as valkey:
        os.sched_setaffinity(valkey.pid, {int(SERVER_CORE)})
        os.sched_setaffinity(0, {int(LOAD_CORE)})
        uvloop.run(_all(valkey.url, given.rounds, given.entities))


if __name__ == "__main__":
    main()
