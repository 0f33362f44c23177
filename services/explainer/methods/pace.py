"""How sampling goes on in rounds until it is done or its time is over."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded
from services.explainer.coalitions import Masks
from services.explainer.estimate import Floats
from services.explainer.value import Value

__all__ = ["FIRST_ROWS", "PAIRS_TO_TRUST", "ROUND_VALUES", "Pace", "Plan", "before", "values_before"]

T = TypeVar("T")

FIRST_ROWS = 2**14  # composite rows of the first round, about: few enough to learn soon how long a pair takes
ROUND_VALUES = 2**22  # values of one round, in elements: 32 MiB
PAIRS_TO_TRUST = 10  # before that many pairs a standard error is too uncertain to stop by


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to sample: `pairs` (of permutations, of coalitions), or until no standard error exceeds `tolerance`, or until
    `stop`."""

    pairs: int
    seed: int
    stop: Deadline
    tolerance: float | None = None


class Pace:
    """How many pairs the next round is of: at first as many as make about `FIRST_ROWS` rows, then up to twice the last round,
    at most `most`, and no more than half of the time that is left is enough for."""

    def __init__(self, cost: int, most: int, stop: Deadline, clock: Callable[[], float] = time.monotonic) -> None:
        """`cost` are the composite rows of one pair."""
        self.size = max(1, min(most, max(2, FIRST_ROWS // cost) if cost <= FIRST_ROWS else 1))
        self._most = max(1, most)
        self._stop = stop
        self._clock = clock
        self._began = 0.0

    def begin(self) -> None:
        """A round begins."""
        self._began = self._clock()

    def goes_on(self, done: int) -> bool:
        """The round is over, and `done` pairs were done in it; False: another pair would be thrown away unfinished."""
        pair_s = (self._clock() - self._began) / max(done, 1)
        left = self._stop.remaining()
        affordable = left / 2 / pair_s if pair_s > 0 else math.inf
        self.size = int(max(1, min(2 * self.size, self._most, affordable)))
        return left >= pair_s


async def values_before(
    stop: Deadline, value: Value, masks: Masks, rows: int, *, is_first: bool, first_row: int = 0
) -> Floats | None:
    """The values of coalitions for so many rows; None when they did not come before `stop`."""
    return await before(stop, value.of(masks, range(first_row, first_row + rows)), is_first=is_first)


async def before(stop: Deadline, asking: Awaitable[T], *, is_first: bool) -> T | None:
    """What is asked for; None when it did not come before `stop`.

    The model may have been told an earlier end than we were: its DeadlineExceeded is an end like ours, unless nothing `is_first`:
    then it is the caller's.
    """
    left = stop.remaining()
    timer = asyncio.timeout(None if left == math.inf else left)
    try:
        async with timer:
            return await asking
    except TimeoutError:
        if not timer.expired():
            raise
        return None
    except DeadlineExceeded:
        if is_first:
            raise
        return None
