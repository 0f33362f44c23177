"""Whether the shadow's answers as a whole are distributed as the primary's: one column, or one label, of one row of each call.

One row, drawn at random: the rows of a call are not independent of each other. Bins come from what both answered in the first
pairs, together, so they are the same whichever of the two gave which answer, and those pairs may be counted in them too.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from services.gateway.compare.plain import number
from services.gateway.compare.psi import Table

__all__ = ["MAX_LABELS", "ColumnShift", "LabelShift", "Mean"]

MAX_LABELS = 31  # categories of a label; further ones are counted together
_Z = NormalDist().inv_cdf(0.975)


class Mean:
    """Mean of paired differences with its 95 % interval (Student's t; Welford 1962 for the sums)."""

    __slots__ = ("count", "mean", "squares")

    def __init__(self, count: int = 0, mean: float = 0.0, squares: float = 0.0) -> None:
        self.count, self.mean, self.squares = count, mean, squares

    def add(self, value: float) -> None:
        """Count a finite value; one that the sums can't hold is left out."""
        step = value - self.mean
        if math.isfinite(squares := self.squares + step * (step - step / (self.count + 1))):
            self.count += 1
            self.mean += step / self.count
            self.squares = squares

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean; of less than two values it is everything."""
        if self.count < 2:
            return -math.inf, math.inf
        half = _t(self.count - 1) * math.sqrt(self.squares / (self.count - 1) / self.count)
        return self.mean - half, self.mean + half


class ColumnShift:
    """One column of a floating output: a table of (primary's bin, other's bin), once there are bins, and the mean difference."""

    def __init__(self, bins: int, bin_from: int) -> None:
        self._bins = bins
        self._bin_from = bin_from
        self._first: list[tuple[float, float]] = []
        self.edges: list[float] | None = None
        self._table: Counter[tuple[int, int]] = Counter()
        self.mean = Mean()
        self.count = 0

    def add(self, primary: float, other: float) -> None:
        """Count one pair of values; NaN has a bin of its own, infinities are in the outermost ones."""
        self.count += 1
        if math.isfinite(difference := other - primary):
            self.mean.add(difference)
        if self.edges is not None:
            self._table[self._bin(primary), self._bin(other)] += 1
            return
        self._first.append((primary, other))
        if len(self._first) == self._bin_from:
            self.edges = _edges(self._first, self._bins)
            self._table.update((self._bin(a), self._bin(b)) for a, b in self._first)
            self._first = []

    def table(self) -> Table | None:
        """Pairs by (primary's bin, other's bin); None while there are too few to make bins."""
        if self.edges is None:
            return None
        return _square(self._table, len(self.edges) + 2)

    def state(self) -> dict[str, Any]:
        """All that it knows, ready for JSON."""
        return {
            "first": [[number(a), number(b)] for a, b in self._first],
            "edges": self.edges,
            "table": [[i, j, count] for (i, j), count in self._table.items()],
            "mean": [self.mean.count, self.mean.mean, self.mean.squares],
            "count": self.count,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], bins: int, bin_from: int) -> ColumnShift:
        """The column whose `state` this is."""
        made = cls(bins, bin_from)
        made._first = [(float(a), float(b)) for a, b in state["first"]]
        made.edges = None if state["edges"] is None else [float(each) for each in state["edges"]]
        made._table = Counter({(int(i), int(j)): int(count) for i, j, count in state["table"]})
        count, mean, squares = state["mean"]
        made.mean = Mean(int(count), float(mean), float(squares))
        made.count = int(state["count"])
        return made

    def _bin(self, value: float) -> int:
        assert self.edges is not None
        return len(self.edges) + 1 if math.isnan(value) else bisect_right(self.edges, value)


class LabelShift:
    """The label of a row: a table of (primary's, other's), of the labels that came first and one place for all others."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self._table: Counter[tuple[int, int]] = Counter()
        self.count = 0

    def add(self, primary: str, other: str) -> None:
        """Count one pair of labels."""
        self.count += 1
        for label in sorted({primary, other}):  # in an order that does not tell which of the two answered what
            if label not in self.places and len(self.places) < MAX_LABELS:
                self.places[label] = len(self.places)
        self._table[self.places.get(primary, MAX_LABELS), self.places.get(other, MAX_LABELS)] += 1

    def table(self) -> Table:
        """Pairs by (primary's label, other's), in the order of `places`, and where these are full one for all others."""
        return _square(self._table, len(self.places) + (len(self.places) == MAX_LABELS))

    def state(self) -> dict[str, Any]:
        """All that it knows, ready for JSON."""
        return {
            "places": list(self.places),
            "table": [[i, j, count] for (i, j), count in self._table.items()],
            "count": self.count,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> LabelShift:
        """The label whose `state` this is."""
        made = cls()
        made.places = {str(label): at for at, label in enumerate(state["places"])}
        made._table = Counter({(int(i), int(j)): int(count) for i, j, count in state["table"]})
        made.count = int(state["count"])
        return made


def _edges(pairs: list[tuple[float, float]], bins: int) -> list[float]:
    """Quantiles of all the values together. One value that fills whole bins gets one of its own."""
    pooled = np.array(pairs).ravel()
    pooled = pooled[np.isfinite(pooled)]
    if not pooled.size:
        return []
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    with np.errstate(over="ignore", invalid="ignore"):
        found, times = np.unique(np.quantile(pooled, inner, method="lower"), return_counts=True)
    heavy = np.nextafter(found[times > 1], np.inf)
    edges: list[float] = np.unique(np.concatenate([found, heavy])).tolist()
    return edges


def _square(counts: Mapping[tuple[int, int], int], size: int) -> Table:
    table = np.zeros((size, size), np.int64)
    for cell, count in counts.items():
        if min(cell) < 0 or count < 0:  # of a file that was damaged: numpy would count from the end
            raise ValueError(f"no cell of a table: {cell}, {count}")
        table[cell] = count
    return table


def _t(degrees: int) -> float:
    """The 97.5 % quantile of Student's t: Fisher's expansion (Abramowitz and Stegun 26.7.5), to 0.02 % from 9 degrees on."""
    z, n = _Z, degrees
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2) + third
