"""How far two distributions are apart when their values come in pairs, and how often chance alone makes it as far.

The population stability index of two histograms p and q is Σ (pᵢ − qᵢ)·ln(pᵢ/qᵢ) (Siddiqi 2006, Credit Risk Scorecards; it is
Jeffreys' divergence). Its usual χ² distribution (Yurdakul 2018, Statistical Properties of Population Stability Index) is for
independent samples. Here both answers are about the same request: under the null hypothesis that it does not matter which of the
two gave which answer, the two answers of a pair may be swapped. So the reference is a randomisation test (Fisher 1935, The Design
of Experiments, 21): in the table of (primary's bin, other's bin), of the nᵢⱼ + nⱼᵢ pairs in these two bins a Binomial(½) number
lies on one side. It is the exact relative of Stuart and Maxwell's test of marginal homogeneity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PsiTest", "psi", "psi_test", "swaps"]

Table = NDArray[np.int64]
_CHUNK = 256  # redraws at a time, so that a table of many bins takes no more than some MB
_FIRST = 64  # most columns of equal models are done with after so many


@dataclass(frozen=True, slots=True)
class PsiTest:
    """A PSI, and of `draws` redraws how many gave a larger one, and how many one as large. `stopped`: no more were made, since
    that was enough of them."""

    psi: float
    above: int
    equal: int
    draws: int
    stopped: bool = False

    @property
    def p(self) -> float:
        """(1 + as large or larger) / (1 + draws): valid for any number of draws (Davison and Hinkley 1997, 4.2.5). Stopped at
        the h-th one as large or larger: h / draws (Besag and Clifford 1991, "Sequential Monte Carlo p-values", Biometrika 78)."""
        if self.stopped:
            return (self.above + self.equal) / self.draws
        return (1 + self.above + self.equal) / (1 + self.draws)


def psi(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """PSI of counts by bin, along the last axis. Half a count is added to each bin: an empty one would make it infinite."""
    bins = first.shape[-1]
    p = (first + 0.5) / (first.sum(-1, keepdims=True) + 0.5 * bins)
    q = (second + 0.5) / (second.sum(-1, keepdims=True) + 0.5 * bins)
    result: NDArray[np.float64] = ((p - q) * np.log(p / q)).sum(-1)
    return result


def swaps(table: Table) -> int:
    """In how many cells a redraw draws; 1 at least."""
    return max(1, int(np.count_nonzero(np.triu(table + table.T, 1))))


def psi_test(table: Table, draw: np.random.Generator, draws: int, *, stop: int = 0) -> PsiTest:
    """PSI of the margins of a square table of pairs, with its randomisation test, which is over at the `stop`-th redraw that is
    as large or larger (0: never): its p-value can't be small any more."""
    first = table.sum(1).astype(np.float64)
    second = table.sum(0).astype(np.float64)
    found = float(psi(first, second))
    rows, columns = np.triu_indices(len(table), 1)
    swapped = table[rows, columns] + table[columns, rows]
    rows, columns, swapped = rows[swapped > 0], columns[swapped > 0], swapped[swapped > 0]
    # One pair that moves from cell (j, i) to (i, j) adds one to the first margin at i and takes one from it at j.
    moves = np.zeros((len(swapped), len(table)))
    moves[np.arange(len(swapped)), rows] = 1
    moves[np.arange(len(swapped)), columns] = -1
    both = first + second
    none = np.diag(table).astype(np.float64) + np.bincount(columns, swapped, len(table))  # with all of them at (j, i)
    above = equal = 0
    done = 0
    while done < draws:
        size = min(_CHUNK if done else _FIRST, draws - done)
        redrawn = none + draw.binomial(swapped, 0.5, (size, len(swapped))) @ moves
        values = psi(redrawn, both - redrawn)
        near = np.abs(values - found) <= 1e-9 * (found + 1e-12)  # rounding must not decide between equals
        reached = above + equal + np.cumsum(near | (values > found))
        if stop and reached[-1] >= stop:
            size = int(np.searchsorted(reached, stop)) + 1
            near, values = near[:size], values[:size]
        done += size
        equal += int(near.sum())
        above += int((~near & (values > found)).sum())
        if stop and above + equal >= stop:
            return PsiTest(found, above, equal, done, stopped=True)
    return PsiTest(found, above, equal, draws)
