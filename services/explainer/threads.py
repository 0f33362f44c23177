"""Threads for arithmetic that is too long for the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["Threads"]

INLINE_ELEMENTS = 20_000  # arithmetic on fewer takes under a millisecond, a thread's way there and back a tenth of one

P = ParamSpec("P")
R = TypeVar("R")


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

    async def run_long(self, work: Callable[[], R]) -> R:
        """The same for work that is one piece of seconds, and sees by itself when it is to end: in other threads, so that the
        small pieces of everybody else go on beside it."""
        return await asyncio.get_running_loop().run_in_executor(self._long, work)

    def close(self) -> None:
        """Take no more work; what runs ends by itself."""
        for pool in (self._pool, self._long):
            pool.shutdown(wait=False, cancel_futures=True)
