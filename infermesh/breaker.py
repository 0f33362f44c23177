"""Whether something that keeps failing is to be asked at all: closed, open, half-open."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from infermesh.errors import DeadlineExceeded, ForeignStatus, Internal, MeshError, ResourceExhausted, Unavailable

__all__ = ["Breaker", "BreakerLimits", "is_broken", "is_neutral"]

OF_THE_INPUT = "MODEL_FAILED"  # the reason of a run that failed on one input: it says nothing about the next
SLOTS = 10  # of the window: what is older than a window goes by a tenth of it at a time


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens, and for how long; times are in seconds."""

    failures: int = 5  # in a row
    success_ratio: float = 0.5  # of the window's calls; below it the breaker opens
    min_calls: int = 20  # in the window, before the ratio says anything
    window_s: float = 10.0
    backoff_s: float = 0.5  # before the first look whether it is well again; doubles each time it is not
    max_backoff_s: float = 30.0
    patience_s: float = 0.1  # a call that had less time than this and ran out of it says nothing


class Breaker:
    """A circuit breaker with two signals: failures in a row, and the share of successes in a window.

    Closed, it counts. Open, it waits: `due` becomes true after the backoff (exponential, with jitter), and whoever keeps it asks
    a real health check then, telling `half_open` or `still_broken`. Half-open, the one call that is its trial decides. What calls
    that were sent before it opened say later is not heard. `changed` is told `opened`, `half_opened` and `closed`.

    Envoy's outlier detection and resilience4j have the two signals; gRFC A50 has the exponential ejection time.
    """

    def __init__(
        self,
        limits: BreakerLimits,
        *,
        changed: Callable[[str], None] = lambda change: None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.limits = limits
        self.is_closed = True
        self.is_half_open = False
        self.retry_at = 0.0
        """When it is due, while it is open."""
        self._changed = changed
        self._clock = clock
        self._draw = draw
        self._in_a_row = 0
        self._slots_per_s = SLOTS / limits.window_s
        self._slot = 0
        self._good = 0  # in the present slot
        self._bad = 0
        self._past: list[tuple[int, int, int]] = []  # slot, good, bad; of the window
        self._openings = 0  # without a time of health in between
        self._closed_at = clock()

    def success(self, *, trial: bool = False) -> None:
        """A call was answered."""
        if self.is_closed:
            self._in_a_row = 0
            slot = int(self._clock() * self._slots_per_s)
            if slot != self._slot:
                self._turn(slot)
            self._good += 1
        elif trial and self.is_half_open:
            self._close()

    def failure(self, *, trial: bool = False) -> None:
        """A call failed in a way that speaks against what was asked."""
        if self.is_closed:
            self._in_a_row += 1
            slot = int(self._clock() * self._slots_per_s)
            if slot != self._slot:
                self._turn(slot)
            self._bad += 1
            if self._in_a_row >= self.limits.failures or self._ratio_is_low():
                self._open()
        elif trial and self.is_half_open:
            self._open()

    def now(self) -> float:
        """The time that `retry_at` is in."""
        return self._clock()

    def due(self) -> bool:
        """Whether it is time for a look at its health."""
        return not self.is_closed and not self.is_half_open and self._clock() >= self.retry_at

    def half_open(self) -> None:
        """The health check was passed: one call may try."""
        if not self.is_closed and not self.is_half_open:
            self.is_half_open = True
            self._changed("half_opened")

    def still_broken(self) -> None:
        """The health check was not passed."""
        if not self.is_closed:
            self.is_half_open = False
            self._wait()

    def _open(self) -> None:
        if self.is_closed and self._clock() - self._closed_at > self.limits.max_backoff_s:
            self._openings = 0  # it was well for long: this is another matter
        self.is_closed = self.is_half_open = False
        self._wait()
        self._changed("opened")

    def _close(self) -> None:
        self.is_closed, self.is_half_open = True, False
        self._in_a_row = self._good = self._bad = 0
        self._past.clear()
        self._closed_at = self._clock()
        self._changed("closed")

    def _wait(self) -> None:
        backoff_s = min(self.limits.max_backoff_s, self.limits.backoff_s * 2 ** min(self._openings, 30))
        self._openings += 1
        self.retry_at = self._clock() + backoff_s * (0.5 + self._draw())

    def _turn(self, slot: int) -> None:
        if self._good or self._bad:
            self._past.append((self._slot, self._good, self._bad))
        self._past = [each for each in self._past if each[0] > slot - SLOTS]
        self._slot, self._good, self._bad = slot, 0, 0

    def _ratio_is_low(self) -> bool:
        good = self._good + sum(each[1] for each in self._past)
        calls = good + self._bad + sum(each[2] for each in self._past)
        return calls >= self.limits.min_calls and good < self.limits.success_ratio * calls

    def __repr__(self) -> str:
        return f"Breaker({'closed' if self.is_closed else 'half-open' if self.is_half_open else 'open'})"


def is_broken(error: MeshError, *, had_s: float, patience_s: float, silent: bool) -> bool:
    """Whether a failed call speaks against what was asked, rather than against the call.

    Away, a defect, and no answer in time, but not a run of a model that failed on its input. No answer in time counts only when
    the call had `patience_s` or more, and when what was asked was `silent`, so answered nobody else meanwhile: callers with short
    deadlines must not take a model from all others.
    """
    if error.reason == OF_THE_INPUT:
        return False
    if isinstance(error, DeadlineExceeded):
        return silent and had_s >= patience_s and not error.rejected
    return isinstance(error, Unavailable | Internal) or (
        isinstance(error, ForeignStatus) and error.code in ("UNKNOWN", "DATA_LOSS")
    )


def is_neutral(error: MeshError) -> bool:
    """Whether a failure that does not speak against what was asked does not speak for it either: it was too busy, or too slow."""
    return error.reason == OF_THE_INPUT or isinstance(error, ResourceExhausted | DeadlineExceeded | ForeignStatus)
