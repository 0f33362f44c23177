"""Calls that come too late are told so at once, and the median that says so is recent."""

from __future__ import annotations

import random
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded
from infermesh.protocol import open_inference_pb2 as pb
from services.gateway.enough_time import EnoughTime
from services.gateway.recent_median import RecentMedian

REQUEST = pb.ModelInferRequest(model_name="m")


class Variant:
    """Takes as long as it is told, at most until the deadline."""

    def __init__(self, clock: Any, takes_s: float) -> None:
        self.clock, self.takes_s, self.asked = clock, takes_s, 0

    async def __call__(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.asked += 1
        left = call.deadline.remaining()
        self.clock.now += min(left, self.takes_s)
        if left < self.takes_s:
            raise DeadlineExceeded("late")
        return pb.ModelInferResponse()


class Parts:
    def __init__(self, clock: Any, takes_s: float, *, enforce: bool = True, draw: Any = lambda: 0.5) -> None:
        self.clock, self.late = clock, 0
        self.variant = Variant(clock, takes_s)
        recent = RecentMedian(20, 30.0, clock)
        self.filter = EnoughTime(recent=recent, enforce=enforce, observe=self.observe, clock=clock, draw=draw)

    def observe(self) -> None:
        self.late += 1

    async def ask(self, left_s: float) -> bool:
        call = Call(deadline=Deadline.after(left_s, self.clock), variant="stable")
        try:
            await self.filter(REQUEST, call, self.variant)
        except DeadlineExceeded:
            return False
        return True


async def test_less_time_than_half_of_the_calls_took_is_refused_at_once(clock: Any) -> None:
    """DEADLINE_EXCEEDED, not started, with what is left and what is needed; who has enough is served."""
    parts = Parts(clock, 0.2)
    for _ in range(20):
        assert await parts.ask(1.0)

    call = Call(deadline=Deadline.after(0.1, clock), variant="stable")
    with pytest.raises(DeadlineExceeded, match=r"100\.0 ms are left, .* took more than 200\.0 ms") as refused:
        await parts.filter(REQUEST, call, parts.variant)

    assert (refused.value.reason, refused.value.rejected) == ("NO_TIME", True)
    assert (parts.variant.asked, parts.late) == (20, 1)
    assert await parts.ask(0.3)


async def test_before_enough_calls_nothing_is_refused(clock: Any) -> None:
    """Nineteen answers say nothing yet."""
    parts = Parts(clock, 0.2)
    for _ in range(19):
        await parts.ask(1.0)

    assert not await parts.ask(0.1)
    assert (parts.variant.asked, parts.late) == (20, 0)


async def test_a_variant_that_got_slow_is_noticed_though_no_call_ends(clock: Any) -> None:
    """Calls that end at their deadline count with a quarter more than they had."""
    parts = Parts(clock, 0.01)
    for _ in range(64):
        await parts.ask(0.5)
    parts.variant.takes_s = 5.0

    for _ in range(100):
        await parts.ask(0.5)

    assert parts.late > 20


async def test_a_variant_that_is_fast_again_is_found(clock: Any) -> None:
    """A twentieth of the calls goes on, and soon all do again."""
    parts = Parts(clock, 5.0, draw=random.Random(1).random)
    for _ in range(64):
        await parts.ask(0.5)
    assert parts.filter.recent.value == pytest.approx(0.625)
    parts.variant.takes_s = 0.01

    asked = 0
    while parts.filter.recent.value is not None and parts.filter.recent.value > 0.4:
        clock.now += 0.01
        await parts.ask(0.4)
        asked += 1
        assert asked < 5000

    assert parts.late > 0
    late = parts.late
    assert await parts.ask(0.4)
    assert parts.late == late


@pytest.mark.parametrize("calls_per_s", [5, 20, 200])
async def test_one_hiccup_is_over_within_seconds(clock: Any, calls_per_s: int) -> None:
    """64 slow answers, then a fast variant and callers with little time: the first probes that are answered turn the median."""
    parts = Parts(clock, 0.3, draw=random.Random(1).random)
    for _ in range(64):
        await parts.ask(5.0)
    parts.variant.takes_s = 0.005
    began, last = clock.now, clock.now

    while clock.now < began + 20:
        if not await parts.ask(0.1):
            last = clock.now
        clock.now += 1 / calls_per_s

    assert 0 < last - began < 4


async def test_observing_counts_and_refuses_nobody(clock: Any) -> None:
    """In observe mode the call goes on, to its end at the deadline."""
    parts = Parts(clock, 0.2, enforce=False)
    for _ in range(20):
        await parts.ask(1.0)

    assert not await parts.ask(0.1)
    assert (parts.variant.asked, parts.late) == (21, 1)


def test_the_median_is_that_of_the_last_64(clock: Any) -> None:
    """At most seven samples behind, against a sort of everything."""
    draw, recent, seen = random.Random(3), RecentMedian(5, 1e9, clock), []
    for at in range(500):
        value = draw.random() * (1 + at)
        seen.append(value)
        recent.add(value)
        if at >= 4:
            possible = [
                sorted(seen[: at + 1 - late][-64:])[len(seen[: at + 1 - late][-64:]) // 2]
                for late in range(8)
                if at - late >= 4
            ]
            assert recent.value in possible


def test_what_is_too_old_is_forgotten(clock: Any) -> None:
    """After the window without a call nothing is known."""
    recent = RecentMedian(5, 30.0, clock)
    for _ in range(10):
        recent.add(1.0)
    assert recent.value == 1.0

    clock.now += 31

    assert recent.value is None
