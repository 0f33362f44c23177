"""The short form of benchmarks/split_accuracy.py: shares are weights, and a raise moves no more keys than it has to."""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from statistics import NormalDist
from typing import Any

import pytest

from infermesh.call import Call, Caller

CALLS = 10_000
SEED = 1
Z = NormalDist().inv_cdf(1 - 0.001 / 2)  # the 99.9 % bound of a binomial distribution, two-sided, normal approximation
WEIGHTS = {"stable": 80.0, "canary": 15.0, "other": 5.0, "off": 0.0}
OF_RULE = {"stable": 1.0, "other": 2.0}


def _route(weights: dict[str, float]) -> dict[str, Any]:
    variants = [
        {"name": name, "version": at + 1, "weight": weight} for at, (name, weight) in enumerate(weights.items())
    ]
    rules = [{"when": {"tenant": "ruled"}, "weights": OF_RULE}] if OF_RULE.keys() <= weights.keys() else []
    return {"model": "m", "backend": "one", "sticky": {"metadata": "k"}, "variants": variants, "rules": rules}


def _keyed(tenant: str = "") -> list[Call]:
    numbers, caller = Random(SEED), Caller(tenant=tenant)
    return [Call(caller=caller, metadata={"k": f"card-{numbers.getrandbits(64):x}"}) for _ in range(CALLS)]


async def _answers(make_mesh: Any, ask: Any, weights: dict[str, float], calls: list[Call]) -> list[str]:
    mesh = make_mesh([_route(weights)], draw=Random(SEED).random)
    request = ask("m")
    return [(await mesh.table.infer(request, call)).parameters["infermesh_variant"].string_param for call in calls]


@pytest.mark.parametrize(
    ("calls", "weights"),
    [([Call()] * CALLS, WEIGHTS), (_keyed(), WEIGHTS), (_keyed("ruled"), OF_RULE)],
    ids=["random", "key", "rule"],
)
async def test_each_variant_gets_its_share(make_mesh: Any, ask: Any, calls: list[Call], weights: Any) -> None:
    """At random, by key and by the weights of a rule; the seed is fixed, the bound is that of 99.9 %."""
    found = Counter(await _answers(make_mesh, ask, WEIGHTS, calls))

    for variant, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(found[variant] - CALLS * share) <= Z * math.sqrt(CALLS * share * (1 - share)), variant
    assert found.keys() <= weights.keys()
    assert found["off"] == 0


@pytest.mark.parametrize("variants", [2, 3, 5, 8])
async def test_a_raise_moves_the_keys_between_and_no_others(make_mesh: Any, ask: Any, variants: int) -> None:
    """From 5 to 10 %: keys move to the canary alone, none of its own leaves it, and as many move as its share grew."""
    rest = {f"v{number}": 95.0 * (number + 1) for number in range(variants - 1)}
    others, calls = sum(rest.values()), _keyed()

    before = await _answers(make_mesh, ask, {**rest, "canary": others * 5 / 95}, calls)
    after = await _answers(make_mesh, ask, {**rest, "canary": others * 10 / 90}, calls)

    moved = [now for was, now in zip(before, after, strict=True) if was != now]
    assert set(moved) == {"canary"}
    assert abs(len(moved) - CALLS * 0.05) <= Z * math.sqrt(CALLS * 0.05 * 0.95)
