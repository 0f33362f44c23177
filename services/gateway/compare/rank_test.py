"""Whether values of one histogram tend to be larger than those of another.

Mann and Whitney (1947), "On a test of whether one of two random variables is stochastically larger than the other", Annals of
Mathematical Statistics 18; normal approximation with the correction for ties (Lehmann 1975, Nonparametrics, 1.4) and for
continuity. Values of one bucket are ties, so the test sees no difference that is smaller than the bucket: 2 %. There is no exact
form for small samples: nothing is judged before there are 50 pairs and 20 repeats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from services.gateway.compare.histogram import LogHistogram

__all__ = ["larger", "larger_of_counts"]


def larger(first: LogHistogram, second: LogHistogram) -> float:
    """One-sided p-value of "those of `first` are larger"; 1 when there is nothing to tell them apart by."""
    return larger_of_counts(dict(first.rising()), dict(second.rising()))


def larger_of_counts(first: Mapping[float, int], second: Mapping[float, int]) -> float:
    """The same for counts by value."""
    n, m = sum(first.values()), sum(second.values())
    total = n + m
    if not n or not m:
        return 1.0
    below = ties = u = 0.0
    for value in sorted({*first, *second}):
        mine, theirs = first.get(value, 0), second.get(value, 0)
        u += mine * (below + theirs / 2)  # pairs in which mine is the larger one, a tie is half of one
        below += theirs
        tied = mine + theirs
        ties += float(tied) * (float(tied) ** 2 - 1)
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 1e-9 * n * m:
        return 1.0
    z = (u - n * m / 2 - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2)) / 2
