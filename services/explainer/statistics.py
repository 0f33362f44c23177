"""What the explainer has done for each version of a model, in the terms of Triton's ModelStatistics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from infermesh.names import EXPLAINER_SUFFIX
from infermesh.protocol.open_inference_pb2 import ModelStatistics, ModelStatisticsResponse
from infermesh.total import Total

__all__ = ["Statistics", "Totals"]


@dataclass(slots=True)
class Totals:
    """Of one version since the explainer was started; rows are those that were explained, not those that it asked about."""

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    compute: Total = field(default_factory=Total)
    rows: int = 0
    last_inference: float = 0.0  # wall clock: it is shown to people

    def message(self, name: str, version: str) -> ModelStatistics:
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
        totals.compute_infer.CopyFrom(self.compute.message())
        return message


class Statistics:
    """The totals of every version that was explained, bounded by the versions that the backend has: count no others."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._totals: dict[tuple[str, str], Totals] = {}
        self._wall_clock = wall_clock

    def answered(self, model: str, version: str, rows: int, queue_s: float, compute_s: float, total_s: float) -> None:
        """Count one explanation."""
        totals = self._of(model, version)
        totals.success.add(total_s)
        totals.queue.add(queue_s)
        totals.compute.add(compute_s)
        totals.rows += rows
        totals.last_inference = self._wall_clock()

    def failed(self, model: str, version: str, total_s: float) -> None:
        """Count one request that ended in an error."""
        self._of(model, version).fail.add(total_s)

    def message(self, versions: ModelStatisticsResponse) -> ModelStatisticsResponse:
        """The totals of the versions in a backend's statistics, under the names of their explainers."""
        none = Totals()
        return ModelStatisticsResponse(
            model_stats=[
                self._totals.get((one.name, one.version), none).message(one.name + EXPLAINER_SUFFIX, one.version)
                for one in versions.model_stats
            ]
        )

    def _of(self, model: str, version: str) -> Totals:
        return self._totals.setdefault((model, version), Totals())
