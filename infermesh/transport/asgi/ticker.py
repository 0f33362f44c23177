"""What ends calls from outside: their deadlines, and callers who have gone."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["Ticked", "Ticker"]

TICK_S = 0.1
YOUNG_TICKS = 2  # a call is first looked after when it is 100 to 200 ms old: most are over by then
MOST_TICKS = 20  # between two looks: a thousand streams that only watch cost five hundred looks a second
LONGEST_DELAY_S = 3600.0  # of one timer; a loop refuses some that are much longer


class Ticked(Protocol):
    """A call, as the ticker sees it."""

    deadline: float
    has_expired: bool
    born: int
    look_at: int

    def expire(self) -> None:
        """Its deadline has passed."""

    def look(self, age_s: float) -> None:
        """See whether the caller is still there, when the call is about so old."""


C = TypeVar("C", bound=Ticked)


class Ticker(Generic[C]):
    """Two timers for all calls of a loop, so that a call which is over soon costs none.

    A caller who goes is not always told of: after the end of the request's body a host may answer `receive()` at once, and not
    when there is something new. So calls that last are asked about, the less often the longer they last.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.calls: dict[C, None] = {}  # in the order of their births
        self.ticks = 0
        self.clock = clock
        self._ticking: asyncio.TimerHandle | None = None
        self._expiring: asyncio.TimerHandle | None = None
        self._expires_at = math.inf

    def add(self, call: C) -> None:
        """Look after the call until it is removed. Its deadline must not change."""
        call.born, call.look_at = self.ticks, self.ticks + YOUNG_TICKS
        self.calls[call] = None
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(TICK_S, self.tick)
        if call.deadline < self._expires_at:
            self._arm(call.deadline)

    def remove(self, call: C) -> None:
        self.calls.pop(call, None)

    def tick(self) -> None:
        """A tenth of a second has passed."""
        self.ticks = now = self.ticks + 1
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        if not self.calls:
            return
        self._ticking = asyncio.get_running_loop().call_later(TICK_S, self.tick)
        due: list[C] = []
        for call in self.calls:
            if call.born + YOUNG_TICKS > now:
                break
            if call.look_at <= now:
                due.append(call)
        for call in due:
            call.look_at = now + min(MOST_TICKS, 1 + (now - call.born) // 4)
            call.look((now - call.born) * TICK_S)

    def expire(self) -> None:
        """End the calls whose deadlines have passed, and wait for the next deadline."""
        now = self.clock()
        self._expires_at = math.inf
        for call in [each for each in self.calls if each.deadline <= now and not each.has_expired]:
            call.has_expired = True
            call.expire()
        following = min((each.deadline for each in self.calls if not each.has_expired), default=math.inf)
        if following < math.inf:
            self._arm(following)

    def _arm(self, deadline: float) -> None:
        if self._expiring is not None:
            self._expiring.cancel()
        self._expires_at = deadline
        # A millisecond late rather than early: a loop's clock is coarse, and what is early finds nothing to end.
        delay = min(max(0.0, deadline - self.clock()) + 0.001, LONGEST_DELAY_S)
        self._expiring = asyncio.get_running_loop().call_later(delay, self.expire)
