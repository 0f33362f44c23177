"""Hours of the day in a time zone, for many points in time at once."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIRST_S", "LAST_S", "hours", "offsets_of"]

FIRST_S, LAST_S = 0, 4_102_444_800  # 1970 to 2100; outside, the clocks are taken to stay as they were at the nearer end
DAY_S = 86_400

Offsets = tuple[NDArray[np.int64], NDArray[np.int64]]


@lru_cache(maxsize=64)
def offsets_of(timezone: str) -> Offsets:
    """From which second on, which offset to UTC holds. Raises ValueError for a time zone that nobody here knows.

    zoneinfo tells the offset of one point in time and no list of changes, so the days are walked once and each change is found by
    halving: since 1970 no zone of the database has changed its offset twice within two days.
    """
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f'no time zone "{timezone}" is known here; are the time zones (tzdata) installed?') from None

    def offset(second: int) -> int:
        difference = datetime.fromtimestamp(second, zone).utcoffset()
        assert difference is not None
        return int(difference.total_seconds())

    since, held = [FIRST_S], [offset(FIRST_S)]
    for day in range(FIRST_S + DAY_S, LAST_S, DAY_S):
        now = offset(day)
        if now == held[-1]:
            continue
        before, after = day - DAY_S, day
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (middle, after) if offset(middle) == held[-1] else (before, middle)
        since.append(after)
        held.append(now)
    return np.array(since, np.int64), np.array(held, np.int64)


def hours(seconds: NDArray[np.int64], offsets: Offsets) -> NDArray[np.int64]:
    """The hour, 0 to 23, at each point in time."""
    since, held = offsets
    if len(since) == 1:
        local = seconds + held[0]
    else:
        local = seconds + held[np.maximum(np.searchsorted(since, seconds, side="right") - 1, 0)]
    hour: NDArray[np.int64] = local // 3600 % 24
    return hour
