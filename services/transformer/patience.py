"""A time limit that tells a slow answer from a loop that was busy."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

__all__ = ["Patience"]

LATE_S = 0.003  # a timer of uvloop counts whole milliseconds
GRACE_S = 0.002
GRACES = 3


class Patience:
    """Raises TimeoutError after some seconds, as `asyncio.timeout` does; an answer that is there already is taken first.

    When something holds up the loop, timers come before the bytes that have arrived meanwhile. A timer that comes late is thus
    set again, for a moment, so that the loop can read. `stalled` is true when the last one came late too: then a timeout says
    nothing about who was asked.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._graces = 0 if seconds > 0 else GRACES
        self.stalled = False

    async def __aenter__(self) -> Patience:
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        self._set(self._seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _set(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds  # not the loop's time: uvloop's stands still while a callback runs
        self._timer = self._loop.call_later(seconds, self._fired)

    def _fired(self) -> None:
        late = time.monotonic() - self._due > LATE_S
        if late and self._graces < GRACES:
            self._graces += 1
            self._set(GRACE_S)
            return
        self.stalled = late
        self._limit.reschedule(self._loop.time())
