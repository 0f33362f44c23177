"""What is counted about lookups and views: plain numbers, since the event loop alone adds to them and every request does."""

from __future__ import annotations

from dataclasses import dataclass, field

from infermesh.telemetry.histogram import Histogram
from services.transformer.found import FOUND
from services.transformer.statuses import Status

__all__ = ["AGE_BUCKETS_S", "LOOKUP_BUCKETS_S", "RESULTS", "LookupTally", "Tally"]

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
AGE_BUCKETS_S = (1.0, 10.0, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY)
# fmt: off
LOOKUP_BUCKETS_S = (
    0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)
# fmt: on
RESULTS = ("ok", "timeout", "error", "refused")  # refused: the breaker was open, nobody was asked


@dataclass(slots=True)
class LookupTally:
    """Lookups by how they ended, and how long those took that asked Redis."""

    results: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESULTS, 0))
    seconds: Histogram = field(default_factory=lambda: Histogram(LOOKUP_BUCKETS_S))

    def ended(self, result: str, seconds: float) -> None:
        """Count one lookup."""
        self.results[result] += 1
        if result != "refused":
            self.seconds.add(seconds)


@dataclass(slots=True)
class Tally:
    """Entities by what was found for them, values by their status, and the age of the oldest row of each request."""

    entities: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FOUND, 0))
    values: list[int] = field(default_factory=lambda: [0] * len(Status))
    ages: Histogram = field(default_factory=lambda: Histogram(AGE_BUCKETS_S))

    def found(self, what: str, count: int) -> None:
        """Count entities of one request for which the same was found."""
        self.entities[what] += count
