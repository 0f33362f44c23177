"""The median of what was seen lately."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

__all__ = ["RecentMedian"]

SAMPLES = 64  # kept; the median of so many is within a tenth of the true quantile's rank, two times out of three
RECOUNT = 8  # samples between two sorts: 64 numbers take 2 µs


class RecentMedian:
    """The median of the last 64 samples that are younger than `window_s`; None while there are fewer than `min_samples`.

    A sliding window rather than P² (Jain and Chlamtac 1985): a variant that gets slow, or well again, is to be seen within dozens
    of calls, and P² remembers all that it ever saw.
    """

    def __init__(self, min_samples: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._min = min(min_samples, SAMPLES)
        self._window_s = window_s
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque(maxlen=SAMPLES)  # when, how long
        self._median: float | None = None
        self._stale = 0  # samples that the median does not know
        self._until = 0.0  # then the oldest samples are too old

    def add(self, value: float) -> None:
        self._seen.append((self._clock(), value))
        self._stale += 1

    @property
    def value(self) -> float | None:
        """The median now; at most seven samples behind."""
        now = self._clock()
        if self._stale >= RECOUNT or now >= self._until or (self._stale and self._median is None):
            self._recount(now)
        return self._median

    def _recount(self, now: float) -> None:
        seen = self._seen
        while seen and seen[0][0] <= now - self._window_s:
            seen.popleft()
        values = sorted(value for _, value in seen)
        self._median = values[len(values) // 2] if len(values) >= self._min else None
        self._stale = 0
        # The eighth oldest goes then: until that happens the median moves by few ranks.
        self._until = seen[min(RECOUNT, len(seen)) - 1][0] + self._window_s if seen else now + self._window_s
