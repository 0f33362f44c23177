"""The mean of samples that come one by one, and how far from what it estimates it may be."""

from __future__ import annotations

import math

import numpy as np

from services.explainer.estimate import Floats

__all__ = ["Running", "widened"]

NORMAL = 1.959963984540054  # that many standard errors hold 95 % of a normal distribution
ROUNDING = 1e-9  # of what values span: deviations below it are none


def widened(freedom: int) -> float:
    """What a standard error of so many degrees of freedom is multiplied by, so that 1.96 of it hold 95 % as they would of a
    known one: Student's t. From three on by the expansion of Cornish and Fisher (Abramowitz and Stegun 26.7.5), within 1 %."""
    if freedom == 1:
        return math.tan(0.475 * math.pi) / NORMAL
    if freedom == 2:
        return 0.95 / math.sqrt(2 * 0.975 * 0.025) / NORMAL
    z, n = NORMAL, float(freedom)
    quantile = z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    quantile += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return quantile / z


class Running:
    """Samples of attributions [rows, players, columns], by Welford's running mean and sum of squared deviations."""

    def __init__(self, rows: int, players: int, columns: int) -> None:
        self.mean: Floats = np.zeros((rows, players, columns))
        self.done = 0
        self._squares: Floats = np.zeros((rows, players, columns))
        self._span: Floats = np.zeros((rows, columns))

    def add(self, sample: Floats) -> None:
        """Take one in."""
        self.done += 1
        step = sample - self.mean
        self.mean += step / self.done
        self._squares += step * (sample - self.mean)

    def spans(self, span: Floats) -> None:
        """What one unlike answer could move a sample by, [rows, columns], by what the answers so far span; the largest counts."""
        np.maximum(self._span, span, out=self._span)

    def error(self) -> Floats:
        """The standard error of the mean, never 0; infinite where nothing tells it.

        What matters may be drawn seldom: a rule of a few features, a product of all. Then all samples of a player may be alike
        and far from the truth, and their variance says 0. So, of n samples:

        - a player's variance has one deviation more, that of the player who moves most: what one of them meets seldom, others do;
        - a player that never moved might in one of n samples, by all that the answers span (the "rule of three" has it that what
          was never seen in n trials comes in less than 3/n of them, at 95 %);
        - where the answers never moved, nothing is known.
        """
        n = self.done
        if n < 2:
            return np.full_like(self.mean, math.inf)
        variance = self._squares / (n - 1)
        largest = variance.max(axis=1, keepdims=True, initial=0.0)
        error: Floats = np.sqrt((self._squares + largest) / n / n) * widened(n - 1)
        span = np.broadcast_to(self._span[:, None], error.shape)
        unmoved = variance <= (ROUNDING * span) ** 2
        error[unmoved] = np.maximum(error, span / n)[unmoved]
        error[span == 0] = math.inf
        return error
