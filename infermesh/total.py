"""A count with the time that it took, as Triton's ModelStatistics has it."""

from __future__ import annotations

from dataclasses import dataclass

from infermesh.protocol.open_inference_pb2 import StatisticDuration

__all__ = ["Total"]


@dataclass(slots=True)
class Total:
    """A count and the seconds that it took in all. Added to on the event loop alone."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds

    def message(self) -> StatisticDuration:
        return StatisticDuration(count=self.count, ns=int(self.seconds * 1e9))
