"""Which rows are too old: by source group, since each has an event time of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.transformer.columns import Rows
from services.transformer.row import NEVER, RowFormat

__all__ = ["AgedGroup", "aged_groups"]


class AgedGroup(NamedTuple):
    """A source group whose values get too old, and the positions of its features that somebody takes."""

    event_time: slice
    max_age_us: int
    positions: tuple[int, ...]
    may_be_unwritten: bool  # beside others: what was never written is null, not old
    policy: str = "fail"  # what answers for it when it is stale

    def is_stale(self, row: bytes, now_us: int) -> bool:
        """Whether one row is; it must have the format's length."""
        event_time_us = int.from_bytes(row[self.event_time], "little", signed=True)
        if event_time_us >= now_us - self.max_age_us:
            return False
        return not self.may_be_unwritten or event_time_us != NEVER

    def stale(self, rows: Rows, now_us: int) -> NDArray[np.bool_]:
        """Which of N rows are."""
        times = self.event_times(rows)
        stale: NDArray[np.bool_] = times < now_us - self.max_age_us
        return stale & (times != NEVER) if self.may_be_unwritten else stale

    def event_times(self, rows: Rows) -> NDArray[np.int64]:
        """Of N rows, in microseconds."""
        return rows[:, self.event_time].view(np.ndarray).view("<i8").ravel()


def aged_groups(
    layout: RowFormat,
    used: Collection[int],
    max_age_s: float | None,
    max_ages_s: Mapping[str, float],
    policy_of: Callable[[str], str],
) -> list[AgedGroup]:
    """The groups whose age matters to who takes the features at `used`. A group without a maximum age has that of the view.

    `policy_of` names what answers for a stale group.
    """
    found = []
    several = len(layout.groups) > 1
    for group in layout.groups:
        positions = tuple(position for position in group.positions if position in used)
        age_s = max_ages_s.get(group.name, max_age_s)
        if age_s is not None and (positions or not several):
            found.append(AgedGroup(group.event_time, round(age_s * 1e6), positions, several, policy_of(group.name)))
    return found
