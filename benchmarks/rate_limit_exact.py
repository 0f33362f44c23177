"""Whether gateways that share a limit keep it: several processes, one Redis, each asking as fast as it may.

`python -m benchmarks.rate_limit_exact [--processes 4] [--seconds 5] [--rate 2000] [--burst 500] [--redis URL]`

Each process notes, by the machine's one monotonic clock, when each call that was let in was asked about and answered. Its
decision was in between; so of any time t at most burst + rate × t calls may lie wholly within it. All such times are looked at.
The processes' own clocks, which the limits must not depend on, are set years apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from bisect import insort
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from infermesh.call import Call, Caller
from infermesh.cli.valkey import Valkey
from services.gateway.gcra import Gcra
from services.gateway.limit_rules import Plans, rules_of
from services.gateway.limiter import Limiter
from services.gateway.limits_config import RateLimitConfig
from services.gateway.redis_lane import Lane
from services.gateway.redis_limits import RedisLimits
from services.gateway.refusals import Refusals

SKEWS_S = (0.0, 1e9, -1e5, 12.3)
WORKERS = 8  # calls of one process at a time

Spans = list[tuple[float, float]]  # of calls that were let in: asked, answered


def run(url: str, prefix: str, *, rate: float, burst: int, seconds: float, processes: int = 4) -> list[dict[str, Any]]:
    """What each process says: `spans`, the rule's `outcomes`, the store's `failures`."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--worker"]
    settings = {"url": url, "prefix": prefix, "rate": rate, "burst": burst, "seconds": seconds}
    members = [
        subprocess.Popen(
            [*command, json.dumps({**settings, "skew": SKEWS_S[at % len(SKEWS_S)]})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        for at in range(processes)
    ]
    try:
        for each in members:
            assert each.stdout and each.stdout.readline() == "ready\n"
        for each in members:
            assert each.stdin
            each.stdin.write("go\n")
            each.stdin.flush()
        return [json.loads(each.communicate(timeout=seconds + 30)[0]) for each in members]
    finally:
        for each in members:
            each.kill()
            each.wait()


def most_over(spans: Spans, rate: float, burst: int) -> float:
    """By how many calls the worst time was over burst + rate × t; not above 0 when the limit was kept."""
    worst = float("-inf")
    answered: list[float] = []
    # From the call that was asked about last to the first: those in the list were asked about at or after this one.
    for asked, end in sorted(spans, reverse=True):
        insort(answered, end)
        worst = max(worst, _worst_from(asked, answered, rate, burst))
    return worst


def _worst_from(asked: float, answered: Sequence[float], rate: float, burst: int) -> float:
    return max(count - burst - rate * (end - asked) for count, end in enumerate(answered, 1))


async def _work(url: str, prefix: str, rate: float, burst: int, seconds: float, skew: float) -> None:
    rule = {"name": "shared", "rate": rate, "burst": burst, "per": ["tenant"], "on_store_failure": "closed"}
    store = {"url": url, "key_prefix": prefix, "timeout": "1s"}
    config = RateLimitConfig.model_validate({"rate": None, "rules": [rule], "redis": store})
    rules, failures = rules_of(config), []
    lane = Lane(config.redis, observe=failures.append)

    def clock() -> float:
        return time.monotonic() + skew

    limiter = Limiter(Gcra(clock=clock), RedisLimits(lane), Gcra(clock=clock), Refusals(clock=clock))
    plan = Plans(rules, prefix=prefix).of("iris", Call(caller=Caller("demo", tenant="acme")))
    spans: Spans = []
    await lane.start(10)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    end = time.monotonic() + seconds

    async def ask() -> None:
        while (asked := time.monotonic()) < end:
            refusal, _ = await limiter.decide(plan, (1, 0, 0))
            if refusal is None:
                spans.append((asked, time.monotonic()))
            else:
                await asyncio.sleep(0.0005)

    await asyncio.gather(*(ask() for _ in range(WORKERS)))
    told = list(failures)
    await lane.close()
    sys.stdout.write(json.dumps({"spans": spans, "outcomes": rules[0].outcomes, "failures": told}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--burst", type=int, default=500)
    parser.add_argument("--redis", default="", help="address; left out: a Valkey of its own")
    given = parser.parse_args()
    if given.worker:
        asyncio.run(_work(**json.loads(given.worker)))
        return
    with nullcontext() if given.redis else Valkey() as valkey:
        said = run(
            given.redis or valkey.url,
            f"exact-{time.time_ns()}",
            rate=given.rate,
            burst=given.burst,
            seconds=given.seconds,
            processes=given.processes,
        )
    spans = [tuple(span) for each in said for span in each["spans"]]
    took_s = max(end for _, end in spans) - min(asked for asked, _ in spans)
    bound = given.burst + given.rate * took_s
    print(f"{given.processes} processes, {given.rate:g}/s, burst {given.burst}, {took_s:.2f} s")
    print(f"admitted {len(spans)} of at most {bound:.1f} ({len(spans) / bound:.1%})")
    print(
        f"worst time: {most_over(spans, given.rate, given.burst):+.2f} calls over burst + rate × t (kept: not above 0)"
    )
    for each in said:
        print(f"  admitted {len(each['spans'])}, outcomes {each['outcomes']}, store failures {each['failures']}")


if __name__ == "__main__":
    main()
