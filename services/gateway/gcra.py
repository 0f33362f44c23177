"""How often: the generic cell rate algorithm, which needs one number per key and is exact.

ITU-T Recommendation I.371 (ATM traffic control), "virtual scheduling": a key's *theoretical arrival time* moves on by one
interval with each unit, and a call is refused when that would put it further ahead of now than the burst allows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

__all__ = ["Gcra", "Limit"]

SECOND = 10**12  # in picoseconds: the interval of a thousand million bytes a second is still known to a thousandth
SWEEP_EVERY = SECOND // 10  # a full map is searched for idle keys no oftener: the search goes through all of it


class Limit(NamedTuple):
    """`burst` units at once, and one more every interval. Whole picoseconds: rounding must never let an extra unit in."""

    interval: int
    span: int
    rate: float
    burst: int

    @classmethod
    def of(cls, rate: float, burst: int) -> Limit:
        """`rate` is in units a second, over 0; `burst` is at least 1."""
        interval = math.ceil(SECOND / Fraction(rate))
        return cls(interval, interval * burst, rate, burst)


class Gcra:
    """Of one key, over any time t, at most burst + rate × t units are admitted.

    Keys that have been idle for as long as their burst takes to refill are as good as unknown, and are forgotten when the map is
    full; if none is idle, a new key has to wait. So forgetting never admits a unit too many.

    `take` decides and charges. Where a decision needs others as well, `wait` tells what `take` would and `hold` sets units
    aside; `let_go` and `charge`, with nothing awaited in between, then turn them into a charge that is within the limit.
    """

    def __init__(self, max_keys: int = 10_000, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_keys = max_keys
        self._clock = clock
        self._arrival: dict[str, int] = {}
        self._held: dict[str, int] = {}  # set aside by calls that wait for another's decision
        self._sweep_at = 0

    def take(self, key: str, limit: Limit, cost: int = 1) -> float:
        """Admit a call, and return 0; or refuse it, and return the seconds until it may be admitted."""
        if self._held:
            if not (wait := self.wait(key, limit, cost)):
                self.charge(key, limit, cost)
            return wait
        now = int(self._clock() * SECOND)
        arrival = self._arrival.get(key)
        if arrival is None and len(self._arrival) >= self._max_keys and (room := self._make_room(now)):
            return room
        arrival = (now if arrival is None or arrival < now else arrival) + limit.interval * cost
        early = arrival - now - limit.span
        if early > 0:
            return early / SECOND
        self._arrival[key] = arrival
        return 0.0

    def wait(self, key: str, limit: Limit, cost: int = 1) -> float:
        """The seconds until a call may be admitted, 0 for now; infinite for one that costs more than the burst."""
        if cost > limit.burst:
            return math.inf
        now = int(self._clock() * SECOND)
        arrival = self._arrival.get(key)
        if (
            arrival is None
            and len(self._arrival) + len(self._held) >= self._max_keys
            and (room := self._make_room(now))
        ):
            return room
        begins = now if arrival is None or arrival < now else arrival
        early = begins + limit.interval * (cost + self._held.get(key, 0)) - now - limit.span
        return early / SECOND if early > 0 else 0.0

    def charge(self, key: str, limit: Limit, cost: int = 1) -> None:
        """Count a call that `wait` has let in."""
        now = int(self._clock() * SECOND)
        self._arrival[key] = max(now, self._arrival.get(key, now)) + limit.interval * cost

    def hold(self, key: str, cost: int) -> None:
        self._held[key] = self._held.get(key, 0) + cost

    def let_go(self, key: str, cost: int) -> None:
        left = self._held[key] - cost
        if left:
            self._held[key] = left
        else:
            del self._held[key]

    def left(self, key: str, limit: Limit) -> tuple[int, float]:
        """Units that would be admitted now, and the seconds until the whole burst would."""
        now = int(self._clock() * SECOND)
        debt = max(0, self._arrival.get(key, now) - now) + limit.interval * self._held.get(key, 0)
        return max(0, limit.span - debt) // limit.interval, debt / SECOND

    def __len__(self) -> int:
        return len(self._arrival)

    def _make_room(self, now: int) -> float:
        """Forget the idle; the seconds until some key may be idle, 0 when there is room."""
        if now >= self._sweep_at:
            self._arrival = {key: arrival for key, arrival in self._arrival.items() if arrival > now}
            if len(self._arrival) + len(self._held) < self._max_keys:
                return 0.0
            first = min(self._arrival.values(), default=0)  # without any, those that are held fill the map
            self._sweep_at = max(first, now + SWEEP_EVERY)
        return (self._sweep_at - now) / SECOND
