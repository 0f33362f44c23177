"""Tests of the filter that keeps callers to their rate."""

from __future__ import annotations

from typing import Any

import pytest

from infermesh.call import Call, Caller
from infermesh.errors import ResourceExhausted
from services.gateway.gcra import Gcra, Limit
from services.gateway.rate_limit import RateLimit


def _filter(clock: Any, seen: list[str], **rest: Any) -> RateLimit:
    return RateLimit(default=Limit.of(10, 2), observe=seen.append, limits=Gcra(clock=clock), **rest)


async def test_a_caller_past_its_rate_is_told_when_to_come_back(clock: Any) -> None:
    """The refusal is RESOURCE_EXHAUSTED with the pushback, was rejected before any work, and is counted by caller."""
    seen: list[str] = []
    limit, call = _filter(clock, seen), Call(caller=Caller("demo"))
    for _ in range(2):
        await limit.admit("ModelInfer", "iris", "", call)

    with pytest.raises(ResourceExhausted, match='the caller "demo" is past its rate') as refused:
        await limit.admit("ModelInfer", "iris", "", call)

    assert refused.value.retry_after_s == pytest.approx(0.1)
    assert refused.value.rejected
    assert seen == ["demo"]


async def test_a_caller_may_have_a_limit_of_its_own(clock: Any) -> None:
    """What is configured for a caller counts for it, and the default for all others."""
    limit = _filter(clock, [], callers={"big": Limit.of(1000, 100)})

    for _ in range(100):
        await limit.admit("ModelInfer", "iris", "", Call(caller=Caller("big")))
    with pytest.raises(ResourceExhausted):
        for _ in range(3):
            await limit.admit("ModelInfer", "iris", "", Call(caller=Caller("small")))


async def test_observe_counts_and_refuses_nobody(clock: Any) -> None:
    """In the mode `observe` every call passes, and those past the rate are counted."""
    seen: list[str] = []
    limit = _filter(clock, seen, enforce=False)

    for _ in range(5):
        await limit.admit("ModelInfer", "iris", "", Call(caller=Caller("demo")))

    assert seen == ["demo"] * 3


async def test_without_names_a_host_is_a_caller(clock: Any) -> None:
    """Calls of one host share a limit whatever their port, and another host has its own."""
    limit = _filter(clock, [])
    for port in (1, 2):
        await limit.admit("ModelInfer", "iris", "", Call(peer=f"ipv4:10.0.0.7:{port}"))

    with pytest.raises(ResourceExhausted):
        await limit.admit("ModelInfer", "iris", "", Call(peer="ipv4:10.0.0.7:3"))
    await limit.admit("ModelInfer", "iris", "", Call(peer="ipv4:10.0.0.8:1"))
