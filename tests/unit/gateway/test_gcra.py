"""Tests of how often a caller may call."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.gcra import Gcra, Limit

RATES = st.floats(0.5, 5000)
BURSTS = st.integers(1, 50)
PAUSES_S = st.lists(st.floats(0, 0.5), min_size=1, max_size=120)


@given(rate=RATES, burst=BURSTS, pauses_s=PAUSES_S)
def test_no_window_admits_more_than_burst_and_rate(rate: float, burst: int, pauses_s: list[float]) -> None:
    """Between any two moments at most burst + rate × time calls are admitted, however they come."""
    now = 0.0
    limits, limit = Gcra(clock=lambda: now), Limit.of(rate, burst)
    admitted: list[float] = []

    for pause in pauses_s:
        now += pause
        if not limits.take("a", limit):
            admitted.append(now)

    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            bound = burst + rate * (admitted[last] - admitted[first] + 2e-9)  # the clock is read to a nanosecond
            assert last - first + 1 <= bound + 1e-9


@given(rate=RATES, burst=BURSTS)
def test_whoever_waits_as_told_is_admitted(rate: float, burst: int) -> None:
    """A refusal tells how long to wait: a caller that does is admitted, one that comes clearly earlier is not."""
    now = 0.0
    limits, limit = Gcra(clock=lambda: now), Limit.of(rate, burst)
    assert [limits.take("a", limit) for _ in range(burst)] == [0.0] * burst

    wait = limits.take("a", limit)

    now = wait * 0.9
    assert limits.take("a", limit) > 0
    now = wait + 2e-9
    assert limits.take("a", limit) == 0


def test_callers_do_not_share_a_limit(clock: Any) -> None:
    """One caller past its rate does not keep another one out."""
    limits, limit = Gcra(clock=clock), Limit.of(1, 2)

    assert [limits.take("a", limit) > 0 for _ in range(3)] == [False, False, True]
    assert limits.take("b", limit) == 0


def test_a_full_map_makes_new_callers_wait_and_forgets_idle_ones(clock: Any) -> None:
    """When the map is full a new caller has to wait until another is idle; nobody gets a burst twice by being forgotten."""
    limits, limit = Gcra(2, clock=clock), Limit.of(1, 1)
    limits.take("a", limit)
    limits.take("b", limit)

    wait = limits.take("c", limit)
    assert 0 < wait <= 1
    assert limits.take("a", limit) > 0

    clock.now += wait + 1e-6
    assert limits.take("c", limit) == 0
    assert len(limits) <= 2
