"""Tests of the filter that keeps callers to their rate."""

from __future__ import annotations

from typing import Any

import pytest

from infermesh.call import Call, Caller
from infermesh.errors import ResourceExhausted
from infermesh.protocol import open_inference_pb2 as pb
from services.gateway.gcra import Gcra
from services.gateway.limit_rules import Plans, rules_of
from services.gateway.limiter import Limiter
from services.gateway.limits_config import RateLimitConfig
from services.gateway.rate_limit import RateLimit, RateLimitByCost, rows_of

CALLER = Call(caller=Caller("demo", tenant="acme"), peer="ipv4:10.0.0.7:1")


def _filter(clock: Any, seen: list[Any] | None = None, **config: Any) -> RateLimit:
    rules = rules_of(RateLimitConfig.model_validate({"rate": 10, "burst": 2, **config}))
    kind = RateLimitByCost if any(rule.cost for rule in rules) else RateLimit
    observe = (lambda *each: None) if seen is None else lambda caller, mode: seen.append((caller, mode))
    return kind(plans=Plans(rules), limiter=Limiter(Gcra(clock=clock)), observe=observe)


def _rule(**rest: Any) -> dict[str, Any]:
    return {"name": "rule", "rate": 10, "burst": 2, "store": "local", **rest}


async def _answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(model_name=request.model_name)


async def _infer(limit: RateLimit, request: pb.ModelInferRequest, call: Call = CALLER) -> None:
    """As a stack runs a filter round an inference."""
    await limit.admit("ModelInfer", request.model_name, request.model_version, call)
    await limit(request, call, _answer)


async def test_a_caller_past_its_rate_is_told_when_to_come_back(clock: Any) -> None:
    """The refusal is RESOURCE_EXHAUSTED with the pushback and the limit, rejected before any work, and counted by caller."""
    seen: list[Any] = []
    limit = _filter(clock, seen)
    for _ in range(2):
        await limit.admit("ModelInfer", "iris", "", CALLER)

    with pytest.raises(ResourceExhausted, match='the caller "demo" is past its rate') as refused:
        await limit.admit("ModelInfer", "iris", "", CALLER)

    assert refused.value.retry_after_s == pytest.approx(0.1)
    assert refused.value.rejected
    assert refused.value.quota is not None
    assert refused.value.quota[:3] == ("rule:default", 2, 0)
    assert refused.value.quota.reset_s == pytest.approx(0.2)
    assert seen == [("demo", "enforce")]


async def test_a_caller_may_have_a_limit_of_its_own(clock: Any) -> None:
    """What is configured for a caller counts for it, and the default for all others."""
    limit = _filter(clock, callers={"big": {"rate": 1000, "burst": 100}})

    for _ in range(100):
        await limit.admit("ModelInfer", "iris", "", Call(caller=Caller("big")))
    with pytest.raises(ResourceExhausted):
        for _ in range(3):
            await limit.admit("ModelInfer", "iris", "", Call(caller=Caller("small")))


async def test_observe_counts_and_refuses_nobody(clock: Any) -> None:
    """In the mode `observe` every call passes, and those past the rate are counted."""
    seen: list[Any] = []
    limit = _filter(clock, seen, mode="observe")

    for _ in range(5):
        await limit.admit("ModelInfer", "iris", "", CALLER)

    assert seen == [("demo", "observe")] * 3


async def test_a_rule_that_observes_stands_beside_one_that_enforces(clock: Any) -> None:
    """The modes are each rule's own: what one would refuse is counted while the other decides."""
    seen: list[Any] = []
    limit = _filter(clock, seen, rate=None, rules=[_rule(mode="observe"), _rule(name="other", burst=4)])

    for _ in range(4):
        await limit.admit("ModelInfer", "iris", "", CALLER)
    with pytest.raises(ResourceExhausted, match="limit other"):
        await limit.admit("ModelInfer", "iris", "", CALLER)

    observed, enforced = (rule.outcomes for rule in limit.plans.rules)
    assert (observed["admitted"], observed["observed"]) == (2, 2)
    assert (enforced["admitted"], enforced["refused"]) == (4, 1)
    assert seen == [("demo", "observe")] * 2 + [("demo", "observe"), ("demo", "enforce")]


async def test_without_names_a_host_is_a_caller(clock: Any) -> None:
    """Calls of one host share a limit whatever their port, and another host has its own."""
    limit = _filter(clock)
    for port in (1, 2):
        await limit.admit("ModelInfer", "iris", "", Call(peer=f"ipv4:10.0.0.7:{port}"))

    with pytest.raises(ResourceExhausted):
        await limit.admit("ModelInfer", "iris", "", Call(peer="ipv4:10.0.0.7:3"))
    await limit.admit("ModelInfer", "iris", "", Call(peer="ipv4:10.0.0.8:1"))


async def test_one_level_that_refuses_charges_none(clock: Any) -> None:
    """A call is within all of its limits or counts in none: the tenant keeps what a refused model's call would have used."""
    rules = [_rule(name="tenant", per=["tenant"], burst=3), _rule(name="model", per=["model"], burst=1)]
    limit = _filter(clock, rate=None, rules=rules)
    await limit.admit("ModelInfer", "iris", "", CALLER)

    for _ in range(10):
        with pytest.raises(ResourceExhausted, match=r'the model "iris" is past its rate .limit model'):
            await limit.admit("ModelInfer", "iris", "", CALLER)
    await limit.admit("ModelInfer", "fraud", "", CALLER)
    await limit.admit("ModelInfer", "card", "", CALLER)

    with pytest.raises(ResourceExhausted, match='the tenant "acme" is past its rate'):
        await limit.admit("ModelInfer", "other", "", CALLER)


async def test_a_rule_counts_rows(clock: Any) -> None:
    """An inference counts for the rows of its first input; other RPCs are free."""
    limit = _filter(clock, rate=None, rules=[_rule(cost="rows", burst=100)])
    batch = pb.ModelInferRequest(model_name="iris", inputs=[pb.ModelInferRequest.InferInputTensor(shape=[60, 4])])
    row = pb.ModelInferRequest(model_name="iris", inputs=[pb.ModelInferRequest.InferInputTensor(shape=[1, 4])])
    await _infer(limit, batch)

    with pytest.raises(ResourceExhausted, match=r"10 rows/s, burst 100.*come back in 2\.000 s"):
        await _infer(limit, batch)
    await _infer(limit, row)
    for _ in range(200):
        await limit.admit("ModelMetadata", "iris", "", CALLER)


async def test_a_rule_counts_bytes(clock: Any) -> None:
    """An inference counts for the size of its message."""
    request = pb.ModelInferRequest(model_name="iris", raw_input_contents=[b"x" * 600])
    limit = _filter(clock, rate=None, rules=[_rule(cost="bytes", burst=1000)])
    await _infer(limit, request)

    with pytest.raises(ResourceExhausted, match="10 bytes/s"):
        await _infer(limit, request)


async def test_what_costs_more_than_the_burst_is_told_so(clock: Any) -> None:
    """Such a call never gets in: the refusal has no time to come back, and says to send it in parts."""
    request = pb.ModelInferRequest(model_name="iris", inputs=[pb.ModelInferRequest.InferInputTensor(shape=[101])])
    limit = _filter(clock, rate=None, rules=[_rule(cost="rows", burst=100)])

    with pytest.raises(ResourceExhausted, match=r"counts as 101 rows.*send it in parts") as refused:
        await _infer(limit, request)

    assert refused.value.reason == "COST_OVER_BURST"
    assert refused.value.retry_after_s is None


async def test_rows_and_calls_are_charged_together(clock: Any) -> None:
    """A call that is over its rows does not count as a call either; a message that is none, and has no model, does."""
    rules = [_rule(name="rows", cost="rows", burst=10), _rule(name="calls", burst=2)]
    limit = _filter(clock, rate=None, rules=rules)
    big = pb.ModelInferRequest(model_name="iris", inputs=[pb.ModelInferRequest.InferInputTensor(shape=[11])])
    for _ in range(5):
        with pytest.raises(ResourceExhausted, match="limit rows"):
            await _infer(limit, big)

    await limit.admit("ModelInfer", "", "", CALLER)
    await limit.admit("ModelInfer", "", "", CALLER)

    with pytest.raises(ResourceExhausted, match="limit calls"):
        await limit.admit("ModelInfer", "", "", CALLER)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [([8, 4], 8), ([8], 8), ([], 1), ([0, 4], 1), ([-1, 4], 1), ([-(2**63)], 1), ([2**63 - 1, 9], 2**63 - 1)],
)
def test_no_shape_makes_a_cost_under_one(shape: list[int], rows: int) -> None:
    """A caller can't earn calls by a dimension that is negative or none; what is wrong with it others say."""
    request = pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor(shape=shape)])

    assert rows_of(request) == rows
    assert rows_of(pb.ModelInferRequest()) == 1


async def test_a_hundred_thousand_names_take_no_more_memory(clock: Any) -> None:
    """Callers, hosts and models that are made up fill what is bounded, and those who called before go on."""
    rules = rules_of(RateLimitConfig.model_validate({"rules": [_rule(per=["caller", "model"])]}))
    plans, gcra = Plans(rules, label=lambda model: "", max_plans=100), Gcra(100, clock=clock)
    limit = RateLimit(plans=plans, limiter=Limiter(gcra), observe=lambda *each: None)
    await limit.admit("ModelInfer", "iris", "", CALLER)

    refused = 0
    for number in range(100_000):
        try:
            await limit.admit("ModelInfer", f"m{number}", "", Call(peer=f"ipv4:10.{number}:1"))
        except ResourceExhausted:
            refused += 1

    assert refused > 99_000
    assert len(plans) <= 100
    assert len(gcra) <= 102
    await limit.admit("ModelInfer", "iris", "", CALLER)
