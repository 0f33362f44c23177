"""Whether the shares of variants are their weights, and whether a raise moves no more keys than it has to.

python -m benchmarks.split_accuracy [--calls 100000] [--seed 1]

Shares: calls through a route table of the gateway, split at random, by a sticky key (a new one for each call), and by the weights
of a rule; each count is to be inside the 99.9 % bound of a binomial distribution (normal approximation, two-sided; so of 1,000
seeds some 14 would fail in one of the 14 comparisons). Flips: with the same keys the canary's weight is raised from 5 to 10 % of
2, 3, 5 and 8 variants; keys may move to the canary alone, and as many as its share grew. Last, the canary stops being ready: its
keys alone move. The status is 1 when one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from collections import Counter
from random import Random
from statistics import NormalDist

from benchmarks.processes import machine
from infermesh.call import Call, Caller
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from infermesh.telemetry import Metrics
from services.gateway.backends import Backend
from services.gateway.metrics import GatewayMetrics
from services.gateway.readiness import ReadinessWatch
from services.gateway.route_table import RouteTable
from services.gateway.routes import RoutesFile

WEIGHTS = {"stable": 80.0, "canary": 15.0, "other": 5.0, "off": 0.0}
OF_RULE = {"stable": 1.0, "other": 2.0}
CONFIDENCE = 0.999


class Answering(InferenceService, ModelRepository):
    """A backend that answers at once; `dead` has the versions that are not ready."""

    def __init__(self, dead: set[str], version: str = "") -> None:
        self._dead = dead
        self._version = version

    def variant(self, *, model: str = "", version: str = "") -> Answering:
        return Answering(self._dead, version)

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return pb.ModelInferResponse(model_version=self._version)

    async def ready(self, model: str = "", version: str = "") -> bool:
        return version not in self._dead


class Gateway:
    """A route table over one backend, on a clock that is set."""

    def __init__(self, weights: dict[str, float], seed: int) -> None:
        self.dead: set[str] = set()
        self._now = 0.0
        self._watch = ReadinessWatch(clock=lambda: self._now, draw=lambda: 0.5)
        self._names = list(weights)
        variants = [{"name": name, "version": at + 1, "weight": weights[name]} for at, name in enumerate(self._names)]
        rules = [{"when": {"tenant": "ruled"}, "weights": OF_RULE}] if set(OF_RULE) <= set(weights) else []
        route = {"model": "m", "backend": "b", "sticky": {"metadata": "k"}, "variants": variants, "rules": rules}
        file = RoutesFile.model_validate({"routes": [route], "readiness": {"fall": 1}})
        backends = {"b": Backend("b", Answering(self.dead))}
        metrics = GatewayMetrics(Metrics("gateway"))
        self._table = RouteTable(file, backends, metrics, draw=Random(seed).random, watch=self._watch)

    async def answers(self, calls: list[Call]) -> list[str]:
        request = pb.ModelInferRequest(model_name="m")
        return [(await self._table.infer(request, call)).parameters["infermesh_variant"].string_param for call in calls]

    async def kill(self, name: str) -> None:
        self.dead.add(str(self._names.index(name) + 1))
        self._now += 60
        self._watch.look()
        await self._watch.settled()


def keyed(count: int, seed: int, tenant: str = "") -> list[Call]:
    numbers = Random(seed)
    caller = Caller(tenant=tenant)
    return [Call(caller=caller, metadata={"k": f"card-{numbers.getrandbits(64):x}"}) for _ in range(count)]


def shares(name: str, got: list[str], weights: dict[str, float], z: float) -> bool:
    total, count, good = sum(weights.values()), len(got), True
    found = Counter(got)
    for variant, weight in weights.items():
        share = weight / total
        off = found[variant] - count * share
        bound = z * math.sqrt(count * share * (1 - share))
        inside = abs(off) <= bound
        good &= inside
        print(
            f"{name:10} {variant:8} {share * 100:6.2f} %  {found[variant]:7} calls, {off:+8.1f}, "
            f"bound ±{bound:6.1f}  {'inside' if inside else 'OUTSIDE'}"
        )
    return good and set(found) <= set(weights)


async def flips(count: int, calls: list[Call], seed: int, z: float) -> bool:
    rest = {f"v{number}": 95.0 * (number + 1) for number in range(count - 1)}
    others = sum(rest.values())
    before = await Gateway({**rest, "canary": others * 5 / 95}, seed).answers(calls)
    raised = Gateway({**rest, "canary": others * 10 / 90}, seed)
    after = await raised.answers(calls)
    moved = [(was, now) for was, now in zip(before, after, strict=True) if was != now]
    outside = sum(now != "canary" for _, now in moved)
    off, bound = len(moved) - 0.05 * len(calls), z * math.sqrt(len(calls) * 0.05 * 0.95)
    await raised.kill("canary")
    without = await raised.answers(calls)
    others_moved = sum(was != now for was, now in zip(after, without, strict=True) if was != "canary")
    good = not outside and not others_moved and abs(off) <= bound and "canary" not in without
    print(
        f"{count} variants: 5 to 10 % moves {len(moved)} keys ({off:+.1f}, bound ±{bound:.1f}), {outside} of them outside the "
        f"range; without the canary {others_moved} keys of others move"
    )
    return good


async def main(options: argparse.Namespace) -> bool:
    began = time.perf_counter()
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2)
    print(f"{machine()}\n{options.calls} calls each, seed {options.seed}\n")
    gateway = Gateway(WEIGHTS, options.seed)
    calls = keyed(options.calls, options.seed)
    good = shares("at random", await gateway.answers([Call()] * options.calls), WEIGHTS, z)
    good &= shares("by key", await gateway.answers(calls), WEIGHTS, z)
    good &= shares("by rule", await gateway.answers(keyed(options.calls, options.seed + 1, "ruled")), OF_RULE, z)
    print()
    for count in (2, 3, 5, 8):
        good &= await flips(count, calls, options.seed, z)
    print(f"\n{'all hold' if good else 'NOT all hold'}; {time.perf_counter() - began:.0f} s")
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(not asyncio.run(main(parser.parse_args())))
