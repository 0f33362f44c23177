"""What a model version has done, in the terms of Triton's ModelStatistics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from infermesh.protocol.open_inference_pb2 import ModelStatistics
from infermesh.total import Total

__all__ = ["Statistics"]


@dataclass(slots=True)
class Statistics:
    """Totals of one model version since it was loaded."""

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    read: Total = field(default_factory=Total)
    compute: Total = field(default_factory=Total)
    write: Total = field(default_factory=Total)
    rows: int = 0
    last_inference: float = 0.0  # wall clock: it is shown to people

    def failed(self, total_s: float) -> None:
        """Count one request that ended in an error."""
        self.fail.add(total_s)

    def answered(self, rows: int, read_s: float, write_s: float, total_s: float) -> None:
        """Count one request that was answered."""
        self.success.add(total_s)
        self.read.add(read_s)
        self.write.add(write_s)
        self.rows += rows
        self.last_inference = time.time()

    def waited(self, seconds: float) -> None:
        """Count one request's time in the queue."""
        self.queue.add(seconds)

    def executed(self, requests: int, rows: int, seconds: float) -> None:
        """Count one run, of one request or of a batch of them."""
        self.compute.add(seconds)

    def message(self, name: str, version: str) -> ModelStatistics:
        """In Triton's form."""
        message = ModelStatistics(
            name=name,
            version=version,
            last_inference=int(self.last_inference * 1000),
            inference_count=self.rows,
            execution_count=self.compute.count,
        )
        totals = message.inference_stats
        totals.success.CopyFrom(self.success.message())
        totals.fail.CopyFrom(self.fail.message())
        totals.queue.CopyFrom(self.queue.message())
        totals.compute_input.CopyFrom(self.read.message())
        totals.compute_infer.CopyFrom(self.compute.message())
        totals.compute_output.CopyFrom(self.write.message())
        return message
