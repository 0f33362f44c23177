"""Whether a request may wait: how long it would, and whether that is of any use to it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection

from infermesh.errors import ResourceExhausted
from services.predictor.config import BatchingConfig, QueueConfig
from services.predictor.scheduling.batch import Batch
from services.predictor.scheduling.estimate import Estimate
from services.predictor.scheduling.queue import Queue
from services.predictor.scheduling.request import Request

__all__ = ["Admission", "gave_way", "no_thread"]

LEAST_PUSHBACK_S, MOST_PUSHBACK_S = 0.05, 5.0
FORGETTING = 0.9


class Admission:
    """The bound of the queue, and the comparison of the expected wait with the deadline. `what` names the version in errors.

    What is expected is never more than the work that is there: a run that takes longer than expected is taken to end now, so
    that a model that hangs turns nobody away for longer than its queue is filled. Runs larger than any that was seen are expected
    to take as long as the largest that was. While an instance is idle nobody is asked.
    """

    def __init__(
        self,
        what: str,
        workers: int,
        config: QueueConfig,
        batching: BatchingConfig | None,
        queue: Queue,
        estimate: Estimate,
    ) -> None:
        self._what = what
        self._workers = workers
        self._config = config
        self._batching = batching
        self._queue = queue
        self._estimate = estimate
        self._members = 0.0  # of batches that left others waiting, on average; 0: none was seen

    def admit(self, request: Request, running: Collection[Batch]) -> Request | None:
        """Raise ResourceExhausted unless the request may wait; returns who has to give way to it, if any.

        A full queue gives the place of the youngest of the lowest level to a request of a higher one: shadow copies and
        whatever else was marked as less urgent yields first.
        """
        gives_way = None
        if self._queue.waiting >= self._config.max_requests:
            gives_way = self._queue.youngest_below(request.level)
            if gives_way is None:
                raise ResourceExhausted(
                    f"{self._what}: {self._config.max_requests} requests are waiting, which is the bound",
                    reason="QUEUE_FULL",
                    rejected=True,
                    retry_after_s=_pushback(self.expected_wait_s(request.level, running)),
                )
        if self._config.refuse_late and request.deadline.at != math.inf and self._estimate.known:
            wait_s = self.expected_wait_s(request.level, running)
            run_s = self._estimate.seconds_as_seen(request.size_bytes)
            remaining = request.deadline.remaining()
            if wait_s + run_s > remaining:
                raise ResourceExhausted(
                    f"{self._what}: expected to be answered in {1000 * (wait_s + run_s):.0f} ms, the deadline is in "
                    f"{1000 * remaining:.0f} ms",
                    reason="EXPECTED_TOO_LATE",
                    rejected=True,
                    retry_after_s=_pushback(wait_s + run_s - remaining),
                )
        return gives_way

    def expected_wait_s(self, level: int, running: Collection[Batch]) -> float:
        """Seconds until a request of this level would start: what runs and what is ahead of it, over the instances."""
        estimate = self._estimate
        now = time.perf_counter()
        work_s = 0.0
        for batch in running:
            work_s += batch.expected_s(estimate, now)
        requests, rows, size = self._queue.ahead(level)
        if requests:
            runs = self._runs(requests, rows, size)
            work_s += runs * estimate.seconds_as_seen(size / runs)
        return work_s / self._workers

    def left_others(self, members: int) -> None:
        """A batch of so many members was formed, and others that wait did not fit into it."""
        self._members = members if self._members == 0.0 else FORGETTING * self._members + (1 - FORGETTING) * members

    def _runs(self, requests: int, rows: int, size: int) -> float:
        if self._batching is None:
            return requests
        least = max(rows / self._batching.max_rows, size / self._batching.max_bytes, 1.0)
        if self._members:  # requests of many kinds, or with near deadlines, make smaller batches than the bounds allow
            least = max(least, requests / self._members)
        return min(requests, math.ceil(least))


def gave_way(what: str) -> ResourceExhausted:
    """The error of a request that waited and was put out of a full queue by one of a higher level."""
    return ResourceExhausted(
        f"{what}: the queue is full, and a request of higher priority took the place",
        reason="QUEUE_FULL",
        rejected=True,
        retry_after_s=LEAST_PUSHBACK_S,
    )


def no_thread(what: str, *, rejected: bool = True) -> ResourceExhausted:
    """The error of a request for which the system gave no thread."""
    return ResourceExhausted(
        f"{what}: no thread can be started for its run: this process, or its machine, has as many as it may",
        reason="NO_THREAD",
        rejected=rejected,
        retry_after_s=1.0,
    )


def _pushback(seconds: float) -> float:
    return min(max(seconds, LEAST_PUSHBACK_S), MOST_PUSHBACK_S)
