"""A histogram that costs little enough to be always on.

prometheus_client's takes a lock and walks the bounds in Python for each value: about 2 µs. Here the event loop alone adds, so
that no lock is needed, and a scrape in another thread reads what is there: at most one value behind in `sum`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

__all__ = ["Histogram"]


class Histogram:
    """Values in buckets of fixed upper bounds, which rise; what is past the last one is counted too. Added to by one thread."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values were added."""
        return sum(self.counts)

    def put_into(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add this histogram to a scrape: cumulative buckets, the last one `+Inf`, whose value is the count."""
        counts = self.counts.copy()  # in one step: the event loop may be adding
        buckets, total = [], 0
        for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
            total += count
            buckets.append((floatToGoString(bound), float(total)))  # type: ignore[no-untyped-call]
        family.add_metric(labels, buckets, self.sum)
