"""A histogram of values that span many orders of magnitude, with quantiles of a known relative error.

DDSketch (Masson, Rim, Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 12):
bucket i holds the values in (γ^(i−1), γ^i] with γ = (1+ε)/(1−ε), and says 2γ^i/(γ+1) for each of them, which is at most ε off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["ACCURACY", "LARGEST", "SMALLEST", "LogHistogram", "SignedHistogram"]

ACCURACY = 0.01  # ε: relative error of a quantile
SMALLEST = 1e-18  # what is below counts as 0: 4,145 buckets at most
LARGEST = 1e18  # what is above counts as this

_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_PER_LOG = 1 / math.log(_GAMMA)
_MIDDLE = 2 / (_GAMMA + 1)


class LogHistogram:
    """Nonnegative values; a quantile is within `ACCURACY` of a value of that rank, relatively, from `SMALLEST` to `LARGEST`."""

    __slots__ = ("buckets", "count", "largest", "zeros")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.zeros = 0
        self.count = 0
        self.largest = 0.0  # exact, also past LARGEST

    def add(self, value: float) -> None:
        """Count a value; raises ValueError if it is negative or NaN."""
        if not value >= 0:
            raise ValueError(f"expected a number of 0 or more, got {value}")
        self.count += 1
        if value < SMALLEST:
            self.zeros += 1
        else:
            at = math.ceil(math.log(min(value, LARGEST)) * _PER_LOG)
            self.buckets[at] = self.buckets.get(at, 0) + 1
        self.largest = max(self.largest, value)

    def quantile(self, share: float) -> float:
        """The value of rank ⌈share·count⌉ (at least the first) in rising order; NaN without values."""
        if not self.count:
            return math.nan
        return self.at_rank(max(1, math.ceil(share * self.count)))

    def at_rank(self, rank: int) -> float:
        """The value of a rank in rising order, from 1 to `count`."""
        seen = 0
        for value, count in self.values():
            seen += count
            if seen >= rank:
                return value
        raise ValueError(f"expected a rank from 1 to {self.count}, got {rank}")

    def rising(self) -> Iterator[tuple[float, int]]:
        """The buckets that hold values with their counts, lowest first; that of zeros is −∞."""
        if self.zeros:
            yield -math.inf, self.zeros
        yield from sorted(self.buckets.items())

    def values(self) -> Iterator[tuple[float, int]]:
        """What the buckets that hold values say, with their counts, lowest first."""
        return ((_value(at), count) for at, count in self.rising())

    def state(self) -> dict[str, Any]:
        """All that it knows, ready for JSON."""
        buckets = [[at, count] for at, count in sorted(self.buckets.items())]
        return {"zeros": self.zeros, "buckets": buckets, "largest": min(self.largest, 1.7976931348623157e308)}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> LogHistogram:
        """The histogram whose `state` this is."""
        made = cls()
        made.zeros = int(state["zeros"])
        made.buckets = {int(at): int(count) for at, count in state["buckets"]}
        made.count = made.zeros + sum(made.buckets.values())
        made.largest = float(state["largest"])
        return made


class SignedHistogram:
    """Values of either sign: two histograms, one of them of the negative values without their sign."""

    __slots__ = ("negative", "positive")

    def __init__(self) -> None:
        self.negative = LogHistogram()
        self.positive = LogHistogram()

    def add(self, value: float) -> None:
        """Count a value; raises ValueError for NaN."""
        (self.negative if value < 0 else self.positive).add(abs(value))

    def median(self) -> float:
        """The lower median, with the relative error of the histogram; NaN without values."""
        below, count = self.negative.count, self.negative.count + self.positive.count
        if not count:
            return math.nan
        rank = (count + 1) // 2
        return -self.negative.at_rank(below + 1 - rank) if rank <= below else self.positive.at_rank(rank - below)

    def state(self) -> dict[str, Any]:
        """All that it knows, ready for JSON."""
        return {"negative": self.negative.state(), "positive": self.positive.state()}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> SignedHistogram:
        """The histogram whose `state` this is."""
        made = cls()
        made.negative = LogHistogram.restored(state["negative"])
        made.positive = LogHistogram.restored(state["positive"])
        return made


def _value(at: float) -> float:
    return 0.0 if at == -math.inf else _MIDDLE * _GAMMA**at
