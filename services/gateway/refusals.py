"""Who need not ask again yet."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Refusals"]

SWEEP_EVERY_S = 0.1


class Refusals:
    """Remembers until when a key is refused calls of some cost, so that a shared store is not asked meanwhile.

    A refusal stays right until its wait is over: what others take in the meantime can only make it longer. It says nothing about
    cheaper calls. What does not fit any more is not remembered: then the store is asked.
    """

    def __init__(self, max_keys: int = 10_000, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_keys = max_keys
        self._clock = clock
        self._known: dict[
            str, tuple[float, int, float]
        ] = {}  # until when, calls of which cost, and when nothing is owed
        self._sweep_at = 0.0

    def remember(self, key: str, cost: int, wait_s: float, reset_s: float) -> None:
        now = self._clock()
        if key not in self._known and len(self._known) >= self._max_keys:
            if now < self._sweep_at:  # to search all of it for each refusal would cost more than asking
                return
            self._known = {each: entry for each, entry in self._known.items() if entry[0] > now}
            self._sweep_at = now + SWEEP_EVERY_S
            if len(self._known) >= self._max_keys:
                return
        self._known[key] = (now + wait_s, cost, now + reset_s)

    def find(self, key: str, cost: int) -> tuple[float, float] | None:
        """For how many seconds a call of this cost is still refused, and until the whole burst would be let in; None: unknown."""
        entry = self._known.get(key)
        if entry is None or cost < entry[1]:
            return None
        now = self._clock()
        if entry[0] <= now:
            del self._known[key]
            return None
        return entry[0] - now, entry[2] - now

    def __len__(self) -> int:
        return len(self._known)
