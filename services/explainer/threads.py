"""Threads for arithmetic that is too long for the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded

__all__ = ["Between", "Threads"]

INLINE_ELEMENTS = 20_000  # arithmetic on fewer takes under a millisecond, a thread's way there and back a tenth of one

P = ParamSpec("P")
R = TypeVar("R")

Between = Callable[[], None]
"""What long work calls between its parts: it raises when the work is to end."""


class _Ended(Exception):
    """Nobody waits for the work any more."""


class Threads:
    """A few threads that all explanations share, so that many of them at once don't fight for the interpreter."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="explain")
        self._long = ThreadPoolExecutor(count, thread_name_prefix="explain-long")

    async def run(self, elements: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `work` returns; `elements` is about how many array elements it goes over. Cancelling leaves it to end by itself,
        so pieces are to be small."""
        if elements <= INLINE_ELEMENTS:
            return work(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))

    async def run_long(self, work: Callable[[Between], R], deadline: Deadline, late: str) -> R:
        """The same for work of seconds: in other threads, so that the small pieces of everybody else go on beside it. What it is
        given to call between its parts raises when the caller is cancelled, and DeadlineExceeded with the text `late`."""
        ended = threading.Event()

        def between() -> None:
            if ended.is_set():
                raise _Ended
            if deadline.expired:
                raise DeadlineExceeded(late)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._long, work, between)
        except asyncio.CancelledError:
            ended.set()
            raise

    def close(self) -> None:
        """Take no more work; what runs ends by itself."""
        for pool in (self._pool, self._long):
            pool.shutdown(wait=False, cancel_futures=True)
