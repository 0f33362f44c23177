"""Which runs are so short that they happen on the event loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from infermesh.tensors import Array

__all__ = ["Inline"]

MAX_INLINE_CHARACTERS = 1024  # of all strings of a request together: what they cost is not told by their number

# A run between others' calls finds its caches cold and takes two to four times as long as in the warm-up, and a hop to a thread
# costs another 200 µs: what takes less than so many times the bound is no gain for anybody when it leaves the loop.
SLOW_TIMES = 2

# A slow run inline adds to an account, a fast one takes 1 off: it overflows with the fourth of slow runs that come more often
# than one in fifty. While there is something on it only the thread's own CPU time counts: a process that waits for its core is
# no slow model. That clock is a system call, so it is not read for every run.
SLOW_RUN = 50
SLOW_ACCOUNT = 150

# It may have been the machine and not the model: after a pause runs come back. The pause doubles when they are slow again before
# as much time has passed.
PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0

# One run of so much CPU time ends it at once: everybody else has waited. The thread's CPU time when a run began is known to
# within what passed since it was last read, which is done once in so many seconds and not for every run.
MUCH_S = 0.02
READ_CPU_EVERY_S = 0.005

R = TypeVar("R")


class Inline:
    """Runs on the event loop of a model whose warm-up showed it to be tiny, for inputs no larger than the warm-up's, while runs
    stay as short."""

    def __init__(self, below_s: float, sizes: Mapping[str, int], strings: Sequence[str]) -> None:
        self.stopped = False
        self._comes_back_at = 0.0
        self._pause_s = 0.0
        self._slow_s = SLOW_TIMES * below_s
        self._sizes = sizes
        self._strings = strings
        self._slow = 0
        self._cpu = 0.0  # of this thread, in seconds, at `_read_at` by the other clock
        self._read_at = -math.inf

    def fits(self, arrays: Mapping[str, Array]) -> bool:
        """Whether these inputs are no larger than those that were timed, and runs are not stopped."""
        if self.stopped:
            if time.perf_counter() < self._comes_back_at:
                return False
            self.stopped, self._slow = False, 0
        for name, array in arrays.items():
            if array.size > self._sizes.get(name, -1):  # an optional input was not timed
                return False
        if not self._strings:
            return True
        characters = sum(
            len(text) for name in self._strings if name in arrays for text in arrays[name].ravel().tolist()
        )
        return characters <= MAX_INLINE_CHARACTERS

    def run(self, work: Callable[..., R], *arguments: Any) -> tuple[R, float]:
        """What `work(*arguments)` returns, and the seconds that it took; when it is slow too often, or once takes `MUCH_S` of CPU
        time, `stopped` becomes true, also when it raises: for a pause, or for good."""
        suspected = self._slow > 0
        started = time.perf_counter()
        if suspected or started - self._read_at > READ_CPU_EVERY_S:
            self._cpu, self._read_at = time.thread_time(), started
        try:
            result = work(*arguments)
        finally:
            took = time.perf_counter() - started
            if suspected or took > self._slow_s:
                # At least so much was this run's: all else since the reading took no more CPU than time.
                cpu = time.thread_time() - self._cpu - (started - self._read_at) if suspected or took > MUCH_S else 0.0
                self._account(cpu if suspected else took, cpu)
        return result, took

    def _account(self, took: float, cpu: float) -> None:
        if cpu > MUCH_S:
            self.stopped, self._comes_back_at = True, math.inf
        elif took <= self._slow_s:
            self._slow -= 1
        else:
            self._slow += SLOW_RUN
            if self._slow > SLOW_ACCOUNT:  # what the warm-up said is not true for these inputs, or not now
                self._leave(time.perf_counter())

    def _leave(self, now: float) -> None:
        is_again = now - self._comes_back_at < self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S) if is_again else PAUSE_S
        self.stopped, self._comes_back_at = True, now + self._pause_s
