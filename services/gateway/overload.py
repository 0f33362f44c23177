"""Whether the gateway has more to do than it can."""

from __future__ import annotations

import asyncio

__all__ = ["LoopLag"]

EVERY_S = 0.05
KEPT = 0.8  # of the lag from one look to the next: after a second, a hundredth is left


class LoopLag:
    """How late the event loop runs what is due: the first thing to grow when a process is overloaded.

    A timer that is always there, 20 times a second; `is_over` costs a look at the clock.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._lag_s = 0.0
        self._due_at = self._loop.time() + EVERY_S
        self._timer = self._loop.call_at(self._due_at, self._look)

    def is_over(self) -> bool:
        """Whether the loop was late by more than the limit just now, or is."""
        return self._lag_s > self._limit_s or self._loop.time() - self._due_at > self._limit_s

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        self._lag_s = max(now - self._due_at, self._lag_s * KEPT)
        self._due_at = now + EVERY_S
        self._timer = self._loop.call_at(self._due_at, self._look)
