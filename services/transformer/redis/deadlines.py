"""Ends of waiting, many at a time, that tell a slow answer from a loop that was busy."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable

from services.transformer.redis.errors import Late

__all__ = ["Deadlines"]

GRAIN_S = 0.001  # timers of uvloop count whole milliseconds
LATE_S = 0.003
GRACE_S = 0.002
GRACES = 3

Waiter = asyncio.Future[None]


class _Moment(set[Waiter]):
    """Who comes to the end of its time in the same millisecond."""

    graces = 0


class Deadlines:
    """Tells those who wait for too long that they do, by `Late`; one timer serves all.

    `asyncio.timeout` costs as much as the rest of a lookup (4 µs). When something holds up the loop, timers come before the
    bytes that have arrived meanwhile. A timer that comes late is thus set again for a moment, so that the loop can read, and
    who is told after that knows by `stalled` that the time says nothing about who was asked.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moments: dict[int, _Moment] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0

    def add(self, waiter: Waiter, seconds: float) -> set[Waiter]:
        """Who waits, and for how long; it must be discarded from what is returned when it waits no longer."""
        at = int((self._clock() + seconds) / GRAIN_S) + 1
        moment = self._moments.get(at)
        if moment is None:
            moment = self._begun(at, _Moment())
            if seconds <= 0:
                moment.graces = GRACES  # who had no time gets none
        moment.add(waiter)
        return moment

    def close(self) -> None:
        """Nobody is told any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begun(self, at: int, moment: _Moment) -> _Moment:
        self._moments[at] = moment
        heapq.heappush(self._order, at)
        if self._timer is None or at < self._due:
            self._set()
        return moment

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._order:
            self._due = self._order[0]
            left_s = self._due * GRAIN_S - self._clock() + GRAIN_S / 2  # rounded down it would come for nothing
            self._timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._fired)

    def _fired(self) -> None:
        self._timer = None
        now = self._clock()
        is_late = now - self._due * GRAIN_S > LATE_S
        again = _Moment()
        while self._order and self._order[0] * GRAIN_S <= now:
            moment = self._moments.pop(heapq.heappop(self._order))
            if is_late and moment.graces < GRACES:
                again |= moment
                again.graces = max(again.graces, moment.graces + 1)
                continue
            for waiter in moment:
                if not waiter.done():
                    waiter.set_exception(Late(stalled=is_late or moment.graces > 0))
        if again:
            self._graced(again, now)
        self._set()

    def _graced(self, moment: _Moment, now: float) -> None:
        at = int((now + GRACE_S) / GRAIN_S) + 1
        other = self._moments.get(at)
        if other is None:
            self._moments[at] = moment
            heapq.heappush(self._order, at)
        else:
            other |= moment
            other.graces = max(other.graces, moment.graces)
