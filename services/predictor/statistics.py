"""What a model version has done, in the terms of Triton's ModelStatistics."""

from __future__ import annotations

import time

from infermesh.protocol.open_inference_pb2 import (
    InferBatchStatistics,
    MemoryUsage,
    ModelStatistics,
    StatisticDuration,
)
from infermesh.telemetry.histogram import Histogram
from infermesh.total import Total

__all__ = ["CANCELLED", "Statistics"]

QUEUE_BUCKETS_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COMPUTE_BUCKETS_S = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, *QUEUE_BUCKETS_S[1:])
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
REQUESTS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
MAX_SIZES = (
    256  # sizes of batches that are told apart; others are counted under the next power of two, of which there are 63
)
CANCELLED = "CANCELLED"
ONLY_RESPONSE = "0"  # Triton counts the responses of a request by their index; here there is one


class Statistics:
    """Totals of one model version since it was loaded. Added to on the event loop alone; a scrape reads them in its own thread.

    A request that reached the version ends under exactly one of `success` and `fail`. One that was answered from the response
    cache is a success which neither waited nor ran.
    """

    __slots__ = (
        "batch_requests",
        "batch_rows",
        "begun",
        "cache_hit",
        "cache_miss",
        "compute",
        "compute_seconds",
        "fail",
        "failures",
        "last_inference",
        "nan_answers",
        "queue_seconds",
        "read",
        "rows",
        "sizes",
        "success",
        "write",
    )

    def __init__(self) -> None:
        self.begun = 0
        """Requests that reached the version: each ends under `success` or `fail`."""
        self.success = Total()
        self.fail = Total()
        self.failures: dict[str, Total] = {}
        """By status code, of which there are few: what `fail` is made of."""
        self.queue_seconds = Histogram(QUEUE_BUCKETS_S)
        """Of each request that ran."""
        self.read = Total()
        self.compute = Total()
        """Of each request that ran: one run of a batch is counted for each of its members, with the time of the whole run."""
        self.compute_seconds = Histogram(COMPUTE_BUCKETS_S)
        """Of each run."""
        self.batch_rows = Histogram(ROWS_BUCKETS)
        self.batch_requests = Histogram(REQUESTS_BUCKETS)
        self.sizes: dict[int, Total] = {}
        """Runs by their rows."""
        self.write = Total()
        self.cache_hit = Total()
        self.cache_miss = Total()
        self.nan_answers = 0
        """Answers with a NaN among their numbers."""
        self.rows = 0
        """Of the requests that ran and were answered."""
        self.last_inference = 0.0  # wall clock: it is shown to people

    @property
    def in_flight(self) -> int:
        """Requests that have reached the version and not ended."""
        return max(0, self.begun - self.success.count - self.fail.count)

    def failed(self, code: str, total_s: float) -> None:
        """Count one request that ended in an error, or was given up by its caller (CANCELLED)."""
        self.fail.add(total_s)
        by_code = self.failures.get(code)
        if by_code is None:
            by_code = self.failures[code] = Total()
        by_code.add(total_s)

    def answered(self, rows: int, read_s: float, write_s: float, total_s: float) -> None:
        """Count one request that ran and was answered."""
        self.success.add(total_s)
        self.read.add(read_s)
        self.write.add(write_s)
        self.rows += rows
        self.last_inference = time.time()

    def hit(self, lookup_s: float, total_s: float) -> None:
        """Count one request that was answered from the response cache."""
        self.success.add(total_s)
        self.cache_hit.add(lookup_s)
        self.last_inference = time.time()

    def waited(self, seconds: float) -> None:
        """Count one request's time in the queue, when it comes to run."""
        self.queue_seconds.add(seconds)

    def executed(self, requests: int, rows: int, seconds: float) -> None:
        """Count one run, of one request or of a batch of them; of a later slice of a request there are none."""
        self.compute.count += requests
        self.compute.seconds += (requests or 1) * seconds
        self.compute_seconds.add(seconds)
        self.batch_rows.add(rows)
        self.batch_requests.add(requests or 1)
        size = self.sizes.get(rows)
        if size is None:
            size = self._size(rows)
        size.add(seconds)

    def message(self, name: str, version: str, memory: list[MemoryUsage] | None = None) -> ModelStatistics:
        """In Triton's form: of what ran, times are per request; in `batch_stats` they are per run."""
        queue = self.queue_seconds
        message = ModelStatistics(
            name=name,
            version=version,
            last_inference=int(self.last_inference * 1000),
            inference_count=self.rows,
            execution_count=self.compute_seconds.count,
            batch_stats=[
                InferBatchStatistics(batch_size=rows, compute_infer=total.message())
                for rows, total in sorted(self.sizes.items())
            ],
            memory_usage=memory,
        )
        totals = message.inference_stats
        totals.success.CopyFrom(self.success.message())
        totals.fail.CopyFrom(self.fail.message())
        # A hit waits for nothing, and is among those that did: clients divide by it (Triton, "statistics extension": queue).
        totals.queue.CopyFrom(StatisticDuration(count=queue.count + self.cache_hit.count, ns=int(queue.sum * 1e9)))
        totals.compute_input.CopyFrom(self.read.message())
        totals.compute_infer.CopyFrom(self.compute.message())
        totals.compute_output.CopyFrom(self.write.message())
        totals.cache_hit.CopyFrom(self.cache_hit.message())
        totals.cache_miss.CopyFrom(self.cache_miss.message())
        cancelled = self.failures.get(CANCELLED) or Total()
        response = message.response_stats[ONLY_RESPONSE]
        response.compute_infer.CopyFrom(self.compute.message())
        response.compute_output.CopyFrom(self.write.message())
        response.success.CopyFrom(self.success.message())
        response.fail.CopyFrom(
            Total(self.fail.count - cancelled.count, max(0.0, self.fail.seconds - cancelled.seconds)).message()
        )
        response.cancel.CopyFrom(cancelled.message())
        return message

    def _size(self, rows: int) -> Total:
        if len(self.sizes) >= MAX_SIZES:
            rows = 1 << max(0, rows - 1).bit_length()
        return self.sizes.setdefault(rows, Total())
