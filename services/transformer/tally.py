"""What is counted about one view: plain numbers, since the event loop alone adds to them and every request does."""

from __future__ import annotations

from dataclasses import dataclass, field

from infermesh.telemetry.histogram import Histogram
from services.transformer.policy import FOUND
from services.transformer.statuses import Status

__all__ = ["AGE_BUCKETS_S", "Tally"]

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
AGE_BUCKETS_S = (1.0, 10.0, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY)


@dataclass(slots=True)
class Tally:
    """Entities by what was found for them, values by their status, and the age of the oldest row of each request."""

    entities: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FOUND, 0))
    values: list[int] = field(default_factory=lambda: [0] * len(Status))
    ages: Histogram = field(default_factory=lambda: Histogram(AGE_BUCKETS_S))

    def found(self, what: str, count: int) -> None:
        """Count entities of one request for which the same was found."""
        self.entities[what] += count
