"""The instances of one model version, and how requests get to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import Callable
from functools import partial

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, Internal, MeshError, Unavailable
from infermesh.tensors import Array
from services.predictor.config import BatchingConfig, QueueConfig
from services.predictor.scheduling.admission import Admission, gave_way, no_thread
from services.predictor.scheduling.batch import Batch, Run
from services.predictor.scheduling.batching import Batching
from services.predictor.scheduling.estimate import Estimate
from services.predictor.scheduling.queue import Queue
from services.predictor.scheduling.request import Request
from services.predictor.scheduling.worker import Worker

__all__ = ["Instances"]

_log = logging.getLogger(__name__)

EXIT_S = 2.0  # that the interpreter waits at its exit for runs that were told to end


class Instances:
    """As many runs at a time as there are workers, and one queue before all of them.

    A request that comes while a worker is idle runs at once, alone. Who comes while all are busy waits; a worker that gets
    free takes the first of the queue and, with `batching`, those behind it that fit: nobody waits for others to come. Lives on
    the event loop, all state is changed there; a worker is handed a batch when it is free and not before, so that callers who
    go away leave at once, with their tensors.

    `what` names the version in errors, `names` the inputs that every request gives. `waited(seconds)` is called for each request
    that was answered, `executed(requests, rows, seconds)` for each run that succeeded. `waiting` and `running`
    are plain numbers that other threads may read.
    """

    def __init__(
        self,
        what: str,
        run: Run,
        *,
        names: list[str],
        instances: int,
        devices: int,
        queue: QueueConfig,
        batching: BatchingConfig,
        waited: Callable[[float], None],
        executed: Callable[[int, int, float], None],
    ) -> None:
        self.running = 0
        self._what = what
        self._run = run
        self._levels = queue.priority_levels
        self._default_priority = queue.default_priority
        self._waited = waited
        self._executed = executed
        self._estimate = Estimate()
        self._queue = Queue(what, queue.priority_levels)
        self._batching = Batching(batching, names, self._estimate) if batching.enabled else None
        # Taken from the end: the devices by turns, and a worker that was just used, whose thread is there and warm, first.
        self._free = [Worker(what, at % devices) for at in reversed(range(instances * devices))]
        self._admission = Admission(
            what, len(self._free), queue, batching if batching.enabled else None, self._queue, self._estimate
        )
        self._busy: set[Batch] = set()
        self._closed = self._ended = False
        weakref.finalize(self, _let_go, tuple(self._free), self._busy)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.waiting

    @property
    def busy(self) -> int:
        """Instances that run something."""
        return len(self._busy)

    def level(self, priority: int, *, shadow: bool = False) -> int:
        """The level of a request, from 0: of its priority, of the default one for 0; the last one for shadow copies."""
        last = self._levels - 1
        return last if shadow else min((priority or self._default_priority) - 1, last)

    def is_waited_for(self, level: int) -> bool:
        """Whether somebody waits who is to start before a request of this level."""
        return self._queue.waiting > 0 and self._queue.ahead(level)[0] > 0

    async def run(
        self, arrays: dict[str, Array], outputs: list[str], rows: int, level: int, call: Call, *, follows: bool = False
    ) -> list[Array]:
        """The values of the outputs. `follows`: of a later slice of a request that was accepted.

        Raises ResourceExhausted when the queue is full or the wait would be too long, DeadlineExceeded when the deadline passes,
        Unavailable after the end, and what the run raises. Cancelling takes the request out of the queue at once; a run that
        nobody else waits for is told to end, which ONNX Runtime does at the next operator: its instance is busy until then.
        """
        if self._ended:
            raise self._stops(rejected=not follows)
        answer: asyncio.Future[list[Array]] = asyncio.get_running_loop().create_future()
        request = Request(arrays, outputs, rows, level, call.deadline, answer, time.perf_counter(), follows=follows)
        try:
            if not self._can_start():
                if not self._busy:
                    raise no_thread(self._what, rejected=not follows)
                self._wait(request)
            elif call.deadline.expired:
                raise DeadlineExceeded(f"{self._what}: the deadline passed before its run", rejected=not follows)
            else:
                self._start([request], request.came)
            return await answer
        except asyncio.CancelledError:
            if request.leave is not None:
                request.leave(request)
            else:
                self._queue.remove(request)
                self._leave()
            raise
        finally:
            # An error's traceback holds this frame: with these it would be a cycle, with the tensors in it.
            del request, answer

    def close(self, *, end_runs: bool = False) -> None:
        """What runs or waits is finished, and then the threads go; or it is ended. A caller may hold a version that was replaced
        and come after this: it is answered, unless all was to be ended."""
        self._closed = True
        if end_runs:
            self._ended = True
            for batch in self._busy:
                batch.end()
            self._refuse_all(self._stops)
        self._leave()

    def _wait(self, request: Request) -> None:
        if self._batching is not None:
            request.key = self._batching.key_of(request)
        gives_way = None if request.follows else self._admission.admit(request, self._busy)
        if gives_way is not None:
            self._queue.remove(gives_way)
            if not gives_way.answer.done():
                gives_way.answer.set_exception(gave_way(self._what))
        self._queue.add(request)

    def _next(self) -> None:
        """Give the free workers what waits."""
        while (first := self._queue.first()) is not None:
            if not self._can_start():
                if self._free and not self._busy:  # nobody is left who would ask again
                    self._refuse_all(partial(no_thread, self._what))
                return
            self._queue.remove(first)
            members = [first]
            if self._batching is not None:
                members = self._batching.take_with(first, self._queue)
                if self._queue.waiting:
                    self._admission.left_others(len(members))
            self._start(members, time.perf_counter())

    def _refuse_all(self, error: Callable[..., MeshError]) -> None:
        """Of those that wait."""
        for request in self._queue.clear():
            if not request.answer.done():
                request.answer.set_exception(error(rejected=not request.follows))

    def _stops(self, *, rejected: bool) -> Unavailable:
        return Unavailable(f"{self._what}: the predictor stops", rejected=rejected)

    def _can_start(self) -> bool:
        """Whether a worker is free and has its thread, which is started if it was not."""
        if not self._free:
            return False
        try:
            self._free[-1].start()
        except (
            RuntimeError
        ) as error:  # the system has no more threads: what runs goes on, and this worker may have one later
            _log.warning("no thread for an instance", extra={"model_version": self._what, "reason": str(error)})
            return False
        return True

    def _start(self, members: list[Request], now: float) -> None:
        batch = Batch(members, now)
        worker = self._free.pop()
        self._busy.add(batch)
        self.running += len(members)
        worker.do(partial(self._execute, worker, batch, members[0].answer.get_loop()))

    def _execute(self, worker: Worker, batch: Batch, loop: asyncio.AbstractEventLoop) -> None:
        """In the worker's thread."""
        try:
            batch.execute(self._run, worker.device)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for it
                loop.call_soon_threadsafe(self._finish, worker, batch)

    def _finish(self, worker: Worker, batch: Batch) -> None:
        members = batch.members
        self._busy.discard(batch)
        self.running -= len(members)
        self._free.append(worker)
        for requests, rows, size_bytes, seconds in batch.runs:
            self._estimate.observe(size_bytes, seconds)
            self._executed(requests, rows, seconds)
        for size_bytes, seconds in batch.cut_short:
            self._estimate.observe_at_least(size_bytes, seconds)
        if self._batching is not None:
            self._batching.learn(batch)
            if batch.unsplittable:
                self._stop_batching(batch.unsplittable)
        self._next()  # before the answers: the instance works while they are written
        for request in members:
            self._answer(request)
            # Its batch refers to it, and the frames of an error to both: no cycle is to be left, with the tensors in it.
            request.leave = request.error = request.values = None
            del request.answer
        self._leave()

    def _answer(self, request: Request) -> None:
        answer = request.answer
        if answer.done():  # cancelled: nobody waits for it
            return
        if request.error is not None:
            answer.set_exception(request.error)
        elif request.deadline.expired:
            answer.set_exception(DeadlineExceeded(f"{self._what}: the deadline passed while it ran"))
        elif request.values is not None:
            answer.set_result(request.values)
            if not request.follows:
                self._waited(request.began - request.came)
        else:
            answer.set_exception(Internal(f"{self._what}: its run ended without a result"))

    def _stop_batching(self, why: str) -> None:
        """A model whose outputs can't be split among their callers would be run twice for every batch."""
        self._batching = None
        _log.warning("model version is batched no more", extra={"model_version": self._what, "reason": why})

    def _leave(self) -> None:
        """The threads go with the last who needs them."""
        if self._closed and not self._busy and not self._queue.waiting:
            for worker in self._free:
                worker.stop()


def _let_go(workers: tuple[Worker, ...], busy: set[Batch]) -> None:
    """When the instances are gone, or at the interpreter's exit, which must not come while a thread is in ONNX Runtime."""
    wait = bool(busy)
    for batch in list(busy):
        batch.end()
    threads = [worker.stop() for worker in workers]
    end = time.monotonic() + EXIT_S
    for thread in threads:
        if wait and thread is not None:
            thread.join(max(0.0, end - time.monotonic()))
