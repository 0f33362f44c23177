"""Which of many better and better estimates somebody is told."""

from __future__ import annotations

import math
from collections.abc import Callable

from services.explainer.estimate import Estimate

__all__ = ["Refined"]

INTERVAL_S = 0.25


class Refined:
    """The first one, and then one whose largest standard error is half of the last one's, or that comes a quarter of a second
    after it: few answers, however fast the rounds are."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told_at = -math.inf
        self._error = math.inf

    def is_worth(self, estimate: Estimate) -> bool:
        """Whether to tell it, which then counts as told."""
        now, error = self._clock(), float(estimate.std_error.max(initial=0.0))
        if now - self._told_at < INTERVAL_S and not error <= self._error / 2 < math.inf:
            return False
        self._told_at, self._error = now, error
        return True
