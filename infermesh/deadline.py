"""When a call has to be answered."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["NO_DEADLINE", "Deadline"]


class Deadline:
    """A point in monotonic time; `inf` means that the caller will wait for ever.

    Immutable. `remaining()` is in seconds and never negative; it is `inf` without a deadline.
    """

    __slots__ = ("_clock", "at")

    def __init__(self, at: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.at = at
        self._clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """The deadline that is `seconds` from now."""
        return cls(clock() + seconds, clock)

    def remaining(self) -> float:
        """Seconds that are left, 0.0 when it has passed."""
        return max(0.0, self.at - self._clock())

    @property
    def expired(self) -> bool:
        return self._clock() >= self.at

    def at_most(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now."""
        return Deadline(min(self.at, self._clock() + seconds), self._clock)

    def less(self, seconds: float) -> Deadline:
        """This deadline, earlier by a margin: what a hop leaves for its own way back."""
        return self if self.at == math.inf else Deadline(self.at - seconds, self._clock)

    def __repr__(self) -> str:
        return "Deadline(none)" if self.at == math.inf else f"Deadline(in {self.at - self._clock():.3f} s)"


NO_DEADLINE = Deadline(math.inf)
