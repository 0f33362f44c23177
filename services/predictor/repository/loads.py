"""The threads that models are looked at, loaded and warmed in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from infermesh.config.types import duration_text
from services.predictor.load_failed import LoadFailed

__all__ = ["Loads", "StillLoading"]

MAX_GIVEN_UP = 32  # threads that hang and can't be ended; past them nothing more is begun

R = TypeVar("R")


class StillLoading(LoadFailed):
    """It was not done in time. It goes on, and `Loads.run` tells what becomes of it."""


class Loads:
    """Some work at a time, each in a thread of its own, which is given up on when it takes longer than `timeout_s`.

    A thread can't be ended: one that was given up on goes on, but no longer counts among those at a time, so that a model that
    hangs while it is loaded keeps no other from being loaded.
    """

    def __init__(self, at_a_time: int, timeout_s: float) -> None:
        self.given_up = 0  # that still run
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(at_a_time)

    async def run(self, work: Callable[[], R], *, too_late: Callable[[R | Exception], None] = lambda _: None) -> R:
        """What `work` returns or raises; it waits for its turn.

        Raises StillLoading when it takes too long, LoadFailed when too many hang or no thread can be had. What it returns or
        raises after that, or after a cancellation, is given to `too_late` on the event loop.
        """
        await self._free.acquire()
        if self.given_up >= MAX_GIVEN_UP:
            self._free.release()
            raise LoadFailed(f"{self.given_up} loads hang in this process, which is the bound: it has to be restarted")
        return await _Job(self, work, too_late).outcome()

    def timeout_text(self) -> str:
        """The time that a load is given, for people."""
        return duration_text(self._timeout_s)


class _Job(Generic[R]):
    """One piece of work, from its thread's start to its end, whoever still waits for it."""

    def __init__(self, loads: Loads, work: Callable[[], R], too_late: Callable[[R | Exception], None]) -> None:
        self._loads = loads
        self._work = work
        self._too_late = too_late
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[R] = self._loop.create_future()
        self._given_up = False
        try:
            threading.Thread(target=self._in_thread, name="load", daemon=True).start()
        except RuntimeError as error:  # the system's bound of threads: there is nobody who would give the place back
            loads._free.release()
            raise LoadFailed(f"no thread could be started: {error}") from None
        self._timer = self._loop.call_later(loads._timeout_s, self._give_up)

    async def outcome(self) -> R:
        answer = self._answer
        try:
            return await answer  # cancelling it leaves the thread to itself: `_ended` sees that nobody waits
        except asyncio.CancelledError:
            if not answer.cancelled() and answer.exception() is None:  # it came in the same turn of the loop
                self._too_late(answer.result())
            raise

    def _in_thread(self) -> None:
        result: R | Exception
        try:
            result = self._work()
        except Exception as error:
            result = error
        try:
            self._loop.call_soon_threadsafe(self._ended, result)
        except RuntimeError:  # the loop is closed, the process ends
            return

    def _ended(self, result: R | Exception) -> None:
        self._timer.cancel()
        if self._given_up:
            self._loads.given_up -= 1
        else:
            self._loads._free.release()
        if self._answer.done():
            self._too_late(result)
        elif isinstance(result, Exception):
            self._answer.set_exception(result)
        else:
            self._answer.set_result(result)

    def _give_up(self) -> None:
        self._given_up = True
        self._loads.given_up += 1
        self._loads._free.release()
        if not self._answer.done():
            self._answer.set_exception(StillLoading(f"still loading after {self._loads.timeout_text()}"))
