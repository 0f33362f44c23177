"""The two timers that all calls share."""

from __future__ import annotations

import math

import pytest

from infermesh.transport.asgi.ticker import MOST_TICKS, TICK_S, Ticker
from tests.unit.transport.asgi.parts import Clock


class Call:
    """Keeps when it was looked after, and whether its deadline came."""

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.has_expired = False
        self.born = self.look_at = 0
        self.looks = 0
        self.age_s = 0.0
        self.expired = 0

    def expire(self) -> None:
        self.expired += 1

    def look(self, age_s: float) -> None:
        self.looks += 1
        self.age_s = age_s


async def test_a_call_is_looked_after_the_less_the_longer_it_lasts() -> None:
    """First when it is two ticks old; at last every other second."""
    ticker, call = Ticker[Call](Clock()), Call()
    ticker.add(call)

    looks = []
    for _ in range(400):
        ticker.tick()
        looks.append(call.looks)

    assert looks[:4] == [0, 1, 2, 3]
    assert looks[399] - looks[399 - MOST_TICKS] == 1
    assert call.age_s == pytest.approx(40, abs=MOST_TICKS * TICK_S)
    ticker.remove(call)
    ticker.tick()


async def test_young_calls_are_left_alone() -> None:
    """A call that came after the last tick but one is not looked after, however many there are."""
    ticker = Ticker[Call](Clock())
    old, young = Call(), Call()
    ticker.add(old)
    ticker.tick()
    ticker.add(young)
    ticker.tick()

    assert (old.looks, young.looks) == (1, 0)
    ticker.remove(old)
    ticker.remove(young)


async def test_nothing_ticks_without_calls() -> None:
    """A service that has nothing to do wakes for nothing."""
    ticker, call = Ticker[Call](Clock()), Call()
    ticker.add(call)
    ticker.remove(call)

    ticker.tick()

    assert ticker._ticking is None


async def test_deadlines_pass_in_any_order() -> None:
    """Each once, when the clock has come to it, whichever call came first."""
    clock = Clock()
    ticker = Ticker[Call](clock)
    calls = [Call(clock.now + after) for after in (5, 1, 3, 1)]
    for call in calls:
        ticker.add(call)

    passed = []
    for _ in range(6):
        passed.append([call.expired for call in calls])
        clock.now += 1
        ticker.expire()

    assert passed == [[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]
    assert ticker._expires_at == math.inf


async def test_one_timer_waits_for_the_next_deadline() -> None:
    """An earlier one moves it, a later one does not."""
    clock = Clock()
    ticker = Ticker[Call](clock)
    ticker.add(Call(clock.now + 100))
    first = ticker._expiring
    ticker.add(Call(clock.now + 200))
    assert ticker._expiring is first
    ticker.add(Call(clock.now + 50))

    assert first is not None
    assert first.cancelled()
    assert ticker._expires_at == clock.now + 50
