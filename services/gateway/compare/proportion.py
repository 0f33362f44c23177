"""A share with what it may be, and whether one share is larger than another.

Interval: Clopper and Pearson (1934), "The use of confidence or fiducial limits illustrated in the case of the binomial",
Biometrika 26: quantiles of the beta distribution, never less than the stated coverage. Test: Fisher's exact test, one-sided
(Fisher 1935, "The logic of inductive inference"): the tail of the hypergeometric distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Proportion", "beta_quantile", "fisher_greater", "percent"]

_TINY = 1e-300
_STEPS = 100_000  # of the continued fraction, which takes about √count of them


@dataclass(frozen=True)
class Proportion:
    """`hits` of `of`, with the 95 % interval of the share behind them, from 0 to 1 when nothing was seen."""

    hits: int
    of: int

    @property
    def share(self) -> float:
        """The observed share; NaN of nothing."""
        return self.hits / self.of if self.of else math.nan

    @cached_property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return beta_quantile(0.025, self.hits, self.of - self.hits + 1) if self.hits else 0.0

    @cached_property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return beta_quantile(0.975, self.hits + 1, self.of - self.hits) if self.hits < self.of else 1.0

    def __str__(self) -> str:
        return f"{percent(self.share)} % (95 % {percent(self.low)} to {percent(self.high)} %)"


def fisher_greater(hits: int, of: int, other_hits: int, other_of: int) -> float:
    """The chance that, were both shares equal, as many of all the hits or more fell to the first: small if its is larger.

    Time grows with the hits of the other, at worst, and a tail is left when it no longer counts.
    """
    total = hits + other_hits
    everyone = of + other_of
    # Of `total` hits the other has k: P(k ≤ other_hits). Summed from there to the side that grows thinner.
    lowest, highest = max(0, total - of), min(total, other_of)
    mode = (total + 1) * (other_of + 1) / (everyone + 2)

    def log_chance(k: int) -> float:
        return _log_choose(other_of, k) + _log_choose(of, total - k) - _log_choose(everyone, total)

    def down(k: int) -> float:  # P(k − 1) / P(k)
        return k * (of - total + k) / ((other_of - k + 1) * (total - k + 1))

    def up(k: int) -> float:  # P(k + 1) / P(k)
        return (other_of - k) * (total - k) / ((k + 1) * (of - total + k + 1))

    if other_hits < mode:
        return min(1.0, math.exp(log_chance(other_hits)) * _tail(other_hits, lowest, -1, down))
    if other_hits == highest:
        return 1.0
    above = math.exp(log_chance(other_hits + 1)) * _tail(other_hits + 1, highest, 1, up)
    return max(0.0, 1.0 - above)


def beta_quantile(share: float, a: float, b: float) -> float:
    """Where the distribution function of Beta(a, b) is `share`: bisection, to about 1e-12 relatively."""
    low, high = 0.0, 1.0
    while high - low > 1e-12 * high and high > _TINY:
        middle = (low + high) / 2
        if _beta_below(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def percent(share: float) -> str:
    """A share in percent: two significant digits below 10 %, one decimal above."""
    percent = share * 100
    if percent == 0 or percent >= 9.95:
        return f"{percent:.1f}"
    return f"{percent:.1f}" if percent >= 1 else f"{percent:.2g}"


def _tail(at: int, end: int, step: int, ratio: Callable[[int], float]) -> float:
    """1 + r(at) + r(at)·r(at+step) + …: a tail in units of its first term, until the rest does not count."""
    total = term = 1.0
    while at != end and term > 1e-17 * total:
        term *= ratio(at)
        total += term
        at += step
    return total


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _beta_below(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function: Lentz's continued fraction (Numerical Recipes, 3rd edition, 6.4)."""
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1.0 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _kept(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1.0 / _kept(1.0 + even * d), _kept(1.0 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1.0 / _kept(1.0 + odd * d), _kept(1.0 + odd / c)
        value *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return value


def _kept(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
