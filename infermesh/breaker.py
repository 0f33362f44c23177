"""Whether something that keeps failing is to be asked at all: closed, open, half-open."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, auto

from infermesh.errors import DeadlineExceeded, ForeignStatus, Internal, MeshError, ResourceExhausted, Unavailable

__all__ = ["ALL", "Breaker", "BreakerLimits", "Verdict", "judged"]

OF_THE_INPUT = "MODEL_FAILED"  # the reason of a run that failed on one input: it says nothing about the next
GARBAGE = "BACKEND_GARBAGE"  # an answer that is none
UNWELL_S = 2.0  # between two looks at its health, at most: a look costs little, a trial is somebody's call
SLOTS = 10  # of the window: what is older than a window goes by a tenth of it at a time
STEP = 1.1  # of the usual time, with each answer: 25 answers follow a tenfold change, and one that is odd moves nothing


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens, and for how long; times are in seconds."""

    failures: int = 5  # in a row
    success_ratio: float = 0.5  # of the window's calls; below it the breaker opens
    min_calls: int = 20  # in the window, before the ratio says anything
    window_s: float = 10.0
    backoff_s: float = 0.5  # before the first look whether it is well again; doubles each time a trial fails
    max_backoff_s: float = 30.0
    patience_s: float = 0.1  # a call that had less time than this and ran out of it says nothing


class Breaker:
    """A circuit breaker with two signals: failures in a row, and the share of successes in a window.

    Closed, it counts. Open, it waits: `due` becomes true after the backoff (exponential, with jitter), and whoever keeps it asks
    a real health check then, telling `half_open` or `still_broken`. Trials that fail make the backoff longer, looks do up to two
    seconds. Half-open, a call that is its trial decides. What calls
    that were sent before it opened say later is not heard, nor trials of an earlier `period`: each tells the one that it began
    in. `changed` is told `opened`, `half_opened` and `closed`.

    `usual_s` is about half of what answers take, so that no call is held against what was asked that had less: a frugal median
    (Ma, Muthukrishnan and Sandler, "Frugal Streaming for Estimating Quantiles", 2013), in steps of a tenth.

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
        self.period = 0
        """Which time it is half-open; 0: it never was."""
        self.usual_s = 0.0
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
        self._unwell = 0  # looks in a row that found it so
        self._closed_at = clock()

    @property
    def patience_s(self) -> float:
        """How long a call must have had for its silence to count."""
        return max(self.limits.patience_s, self.usual_s)

    def took(self, seconds: float) -> None:
        """So long an answer took."""
        usual_s = self.usual_s
        if not usual_s:
            self.usual_s = seconds
        elif seconds > usual_s:
            self.usual_s = min(seconds, usual_s * STEP)
        else:
            self.usual_s = max(seconds, usual_s / STEP)

    def success(self, *, trial: int = 0) -> None:
        """A call was answered; `trial` is the period that it is a trial of, 0: it is none."""
        if self.is_closed:
            self._in_a_row = 0
            slot = int(self._clock() * self._slots_per_s)
            if slot != self._slot:
                self._turn(slot)
            self._good += 1
        elif trial and trial == self.period and self.is_half_open:
            self._close()

    def failure(self, *, trial: int = 0, in_a_row: bool = True) -> None:
        """A call failed in a way that speaks against what was asked; not `in_a_row`: it counts in the window's ratio alone, and
        ends a row, since something did answer."""
        if self.is_closed:
            self._in_a_row = self._in_a_row + 1 if in_a_row else 0
            slot = int(self._clock() * self._slots_per_s)
            if slot != self._slot:
                self._turn(slot)
            self._bad += 1
            if self._in_a_row >= self.limits.failures or self._ratio_is_low():
                self._open()
        elif trial and trial == self.period and self.is_half_open:
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
            self.period += 1
            self._changed("half_opened")

    def still_broken(self) -> None:
        """The health check was not passed: the next look comes sooner than after a trial that failed, so that what was away for
        long is not left alone for long when it is back."""
        if not self.is_closed:
            self.is_half_open = False
            self._unwell += 1
            self._wait(self._unwell, min(self.limits.max_backoff_s, max(self.limits.backoff_s, UNWELL_S)))

    def _open(self) -> None:
        if self.is_closed and self._clock() - self._closed_at > self.limits.max_backoff_s:
            self._openings = 0  # it was well for long: this is another matter
        self.is_closed = self.is_half_open = False
        self._unwell = 0
        self._wait(self._openings, self.limits.max_backoff_s)
        self._openings += 1
        self._changed("opened")

    def _close(self) -> None:
        self.is_closed, self.is_half_open = True, False
        self._in_a_row = self._good = self._bad = 0
        self._past.clear()
        self._closed_at = self._clock()
        self._changed("closed")

    def _wait(self, doublings: int, longest_s: float) -> None:
        backoff_s = min(longest_s, self.limits.backoff_s * 2 ** min(doublings, 30))
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


class Verdict(Enum):
    """What a failed call says about what was asked."""

    BROKEN = auto()  # away, silent, or no sense in its answer: both signals count it
    DEFECT = auto()  # a server answered that it failed, perhaps on this input alone: the ratio counts it
    NEUTRAL = auto()  # nothing: too busy, too slow for this call, or a run that failed on its input
    ANSWER = auto()  # it is well: the caller's fault, and the like


ALL = frozenset({"unavailable", "deadline", "internal"})


def judged(
    error: MeshError, *, had_s: float, patience_s: float, silent: bool, counts: Collection[str] = ALL
) -> Verdict:
    """What a failed call says about what was asked, rather than about the call.

    No answer in time counts only when the call had `patience_s` or more, and when what was asked was `silent`, so answered nobody
    else meanwhile: callers with short deadlines must not take a model from all others. INTERNAL of a server counts in the ratio
    alone: one caller's input that a server of another maker fails on must not take the model from all others either, and who
    gets INTERNAL loses no time by it. (Envoy's outlier detection separates its gateway failures, 502 to 504, from all 5xx.)
    `counts` are the kinds that are counted at all.
    """
    if error.reason == OF_THE_INPUT:
        return Verdict.NEUTRAL
    if isinstance(error, DeadlineExceeded):
        is_long = silent and had_s >= patience_s and not error.rejected
        return Verdict.BROKEN if is_long and "deadline" in counts else Verdict.NEUTRAL
    if isinstance(error, Unavailable) or error.reason == GARBAGE:
        return Verdict.BROKEN if "unavailable" in counts else Verdict.NEUTRAL
    if isinstance(error, Internal) or (isinstance(error, ForeignStatus) and error.code in ("UNKNOWN", "DATA_LOSS")):
        return Verdict.DEFECT if "internal" in counts else Verdict.NEUTRAL
    return Verdict.NEUTRAL if isinstance(error, ResourceExhausted | ForeignStatus) else Verdict.ANSWER
