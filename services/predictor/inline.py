"""Which runs are so short that they happen on the event loop."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from infermesh.tensors import Array

__all__ = ["Inline"]

MAX_INLINE_CHARACTERS = 1024  # of all strings of a request together: what they cost is not told by their number

# A slow run inline adds to an account, a fast one takes 1 off: it overflows with the fourth of slow runs that come more often
# than one in fifty. While there is something on it only the thread's own CPU time counts: a process that waits for its core is
# no slow model. That clock is a system call, so it is not read for every run.
SLOW_RUN = 50
SLOW_ACCOUNT = 150

# The work of these operators depends on values, not only on shapes, so a short warm-up says nothing about the next run.
# In a model file an operator's name stands behind its tag (NodeProto.op_type = 4, length-delimited) and length.
_BY_VALUE = re.compile(
    rb"\x22(\x04Loop|\x04Scan|\x02If|\x0bSequenceMap|\x05Range|\x0fConstantOfShape|\x06Expand|\x04Tile|\x03Pad|\x06OneHot"
    rb"|\x06Resize|\x08Upsample|\x0eRegexFullMatch)"
)

R = TypeVar("R")


class Inline:
    """Runs on the event loop of a model whose warm-up showed it to be tiny, for inputs no larger than the warm-up's, until runs
    take longer."""

    def __init__(self, below_s: float, sizes: Mapping[str, int], strings: Sequence[str]) -> None:
        self.below_s = below_s
        self.stopped = False
        self._sizes = sizes
        self._strings = strings
        self._slow = 0

    @classmethod
    def depends_on_values(cls, path: Path) -> bool:
        """Whether the graph has operators that no warm-up can time."""
        return _BY_VALUE.search(path.read_bytes()) is not None

    def fits(self, arrays: Mapping[str, Array]) -> bool:
        """Whether these inputs are no larger than those that were timed."""
        if self.stopped:
            return False
        for name, array in arrays.items():
            if array.size > self._sizes[name]:
                return False
        if not self._strings:
            return True
        characters = sum(len(text) for name in self._strings for text in arrays[name].ravel().tolist())
        return characters <= MAX_INLINE_CHARACTERS

    def run(self, work: Callable[[], R]) -> tuple[R, float]:
        """What `work` returns, and the seconds that it took; when it is slow too often, `stopped` becomes true."""
        suspected = self._slow > 0
        cpu = time.thread_time() if suspected else 0.0
        started = time.perf_counter()
        result = work()
        took = time.perf_counter() - started
        if suspected or took > self.below_s:
            self._account(time.thread_time() - cpu if suspected else took)
        return result, took

    def _account(self, took: float) -> None:
        if took <= self.below_s:
            self._slow -= 1
            return
        self._slow += SLOW_RUN
        self.stopped = self._slow > SLOW_ACCOUNT  # what the warm-up said is not true for these inputs: leave the loop
