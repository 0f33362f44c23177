"""How often: the generic cell rate algorithm, which needs one number per caller and is exact.

ITU-T Recommendation I.371 (ATM traffic control), "virtual scheduling": a caller's *theoretical arrival time* moves on by one
interval with each call, and a call is refused when that would put it further ahead of now than the burst allows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Gcra", "Limit"]

SWEEP_EVERY_NS = 100_000_000  # a full map is searched for idle callers no oftener: the search goes through all of it


class Limit(NamedTuple):
    """`burst` calls at once, and one more every interval. Whole nanoseconds: rounding must never let an extra call in."""

    interval_ns: int
    span_ns: int

    @classmethod
    def of(cls, rate: float, burst: int) -> Limit:
        """`rate` is in calls a second, over 0; `burst` is at least 1."""
        interval_ns = math.ceil(1e9 / rate)
        return cls(interval_ns, interval_ns * burst)


class Gcra:
    """Of one caller, over any time t, at most burst + rate × t calls are admitted.

    Callers who have been idle for as long as their burst takes to refill are as good as unknown, and are forgotten when the map
    is full; if none is idle, a new caller has to wait. So forgetting never admits a call too many.
    """

    def __init__(self, max_callers: int = 10_000, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_callers = max_callers
        self._clock = clock
        self._arrival_ns: dict[str, int] = {}
        self._sweep_at_ns = 0

    def take(self, caller: str, limit: Limit) -> float:
        """Admit one call, and return 0; or refuse it, and return the seconds until one may be admitted."""
        now = int(self._clock() * 1e9)
        arrival = self._arrival_ns.get(caller)
        if arrival is None and len(self._arrival_ns) >= self._max_callers and (wait := self._make_room(now)):
            return wait
        arrival = (now if arrival is None or arrival < now else arrival) + limit.interval_ns
        early = arrival - now - limit.span_ns
        if early > 0:
            return early / 1e9
        self._arrival_ns[caller] = arrival
        return 0.0

    def __len__(self) -> int:
        return len(self._arrival_ns)

    def _make_room(self, now: int) -> float:
        """Forget the idle; the seconds until somebody may be idle, 0 when there is room."""
        if now >= self._sweep_at_ns:
            self._arrival_ns = {caller: arrival for caller, arrival in self._arrival_ns.items() if arrival > now}
            if len(self._arrival_ns) < self._max_callers:
                return 0.0
            self._sweep_at_ns = max(min(self._arrival_ns.values()), now + SWEEP_EVERY_NS)
        return (self._sweep_at_ns - now) / 1e9
