"""The threads that runs of one model version happen in, and the bounded queue before them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import onnxruntime as ort

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, ResourceExhausted

__all__ = ["Threads"]

QUEUE_PUSHBACK_S = 0.05

R = TypeVar("R")


class Threads:
    """As many runs at a time as there are threads; the others wait in the order in which they came.

    Who waits holds nothing but a place: a run is handed to a thread when one is free and not before, so that callers who go
    away leave the queue at once, with their tensors. `what` names the model version in errors.
    """

    def __init__(self, what: str, instances: int, max_queue: int) -> None:
        self.waiting = 0
        self._what = what
        self._max_queue = max_queue
        self._pool = ThreadPoolExecutor(instances, thread_name_prefix=what)
        self._free = asyncio.Semaphore(instances)
        self._running: dict[int, ort.RunOptions] = {}
        self._closed = False

    async def run(self, work: Callable[[ort.RunOptions], R], call: Call) -> tuple[R, float, float]:
        """What `work` returns, the seconds that it waited and those that it ran.

        Raises ResourceExhausted when the queue is full, DeadlineExceeded when the deadline passes in it. Cancelling tells ONNX
        Runtime to end the run, which it does at the next operator; its thread is taken until then.
        """
        queued = time.perf_counter()
        await self._wait_for_a_thread(call)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[R, float]] = loop.create_future()
        options = ort.RunOptions()
        self._running[id(options)] = options

        def finish(result: tuple[R, float] | None, error: BaseException | None) -> None:
            del self._running[id(options)]
            self._free.release()
            self._leave()
            if answer.done():  # cancelled: nobody waits for it
                return
            if error is not None:
                answer.set_exception(error)
            elif result is not None:
                answer.set_result(result)

        def in_thread() -> None:
            try:
                began = time.perf_counter()
                result = work(options), time.perf_counter() - began
            except BaseException as error:
                loop.call_soon_threadsafe(finish, None, error)
            else:
                loop.call_soon_threadsafe(finish, result, None)

        waited = time.perf_counter() - queued
        self._pool.submit(in_thread)
        try:
            value, took = await answer
        except asyncio.CancelledError:
            options.terminate = True
            raise
        return value, waited, took

    def close(self, *, end_runs: bool = False) -> None:
        """Take no new run; those that run or wait are finished, unless they are to be ended."""
        self._closed = True
        if end_runs:
            for options in self._running.values():
                options.terminate = True
        self._leave()

    async def _wait_for_a_thread(self, call: Call) -> None:
        if self._free.locked() and self.waiting >= self._max_queue:
            raise ResourceExhausted(
                f"{self._what}: {self._max_queue} requests are waiting, which is the bound",
                reason="QUEUE_FULL",
                rejected=True,
                retry_after_s=QUEUE_PUSHBACK_S,
            )
        self.waiting += 1
        try:
            await self._free.acquire()
        except asyncio.CancelledError:
            self.waiting -= 1
            self._leave()
            raise
        self.waiting -= 1
        if call.deadline.expired:
            self._free.release()
            self._leave()
            raise DeadlineExceeded(f"{self._what}: the deadline passed in its queue", rejected=True)

    def _leave(self) -> None:
        """The pool goes with the last who needs it: a caller may hold a version that was replaced while it waited."""
        if self._closed and not self._running and not self.waiting:
            self._pool.shutdown(wait=False)
