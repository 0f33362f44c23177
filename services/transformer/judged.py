"""What is the matter with each row of a request, before any policy says what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from services.transformer.columns import Rows
from services.transformer.found import UNANSWERED
from services.transformer.layout.ages import AgedGroup
from services.transformer.layout.versions import PreviousSchemas
from services.transformer.stored_rows import Mask, StoredRows

__all__ = ["Judged", "judged"]


class Judged(NamedTuple):
    """N rows and their faults, each a mask (N,); a row that can't be used is a row of defaults in the table."""

    rows: Sequence[bytes | None]
    """As they came, those of previous schemas in the present one."""
    table: Rows
    unanswered: Mask
    """Nobody could be asked."""
    missing: Mask
    foreign: Mask
    earlier: Mask
    """Of a previous schema."""
    stale: list[Mask]
    """For each of the groups that have an age; of usable rows alone."""
    nulls: Mask
    """(N, used features), of usable rows alone."""

    @property
    def unusable(self) -> Mask:
        return self.missing | self.foreign | self.unanswered

    @property
    def any_stale(self) -> Mask:
        """Rows of which one group at least is too old."""
        return np.logical_or.reduce(self.stale) if self.stale else np.zeros(len(self.rows), np.bool_)

    def tell(self, observe: Callable[[str, int], None], *, kept: bool) -> None:
        """Tell what was found, each row once; a good row that was `kept` is cached."""
        stale, null = self.any_stale, self.nulls.any(axis=1)
        usable = ~(stale | self.unusable)
        counts = {
            "missing": self.missing,
            "foreign": self.foreign,
            "unavailable": self.unanswered,
            "stale": stale,
            "previous": usable & self.earlier,
            "null": usable & null & ~self.earlier,
        }
        left = len(self.rows)
        for found, mask in counts.items():
            if count := int(np.count_nonzero(mask)):
                observe(found, count)
                left -= count
        if left:
            observe("cached" if kept else "present", left)


def judged(
    rows: Sequence[bytes | None],
    stored: StoredRows,
    previous: PreviousSchemas,
    aged: Sequence[AgedGroup],
    now_us: int,
) -> Judged:
    """Look at rows, all at once."""
    nobody = np.zeros(len(rows), np.bool_)
    earlier = nobody
    if previous:
        rows, earlier = _upgraded(rows, stored, previous)
    fits = stored.fits(rows)
    missing = cut_off = unanswered = nobody
    if all(fits):
        table = stored.laid_out(rows)
    else:
        table = stored.laid_out([row if fit else stored.default for row, fit in zip(rows, fits, strict=True)])
        missing = np.fromiter((row is None for row in rows), np.bool_, len(rows))
        unanswered = np.fromiter((row is UNANSWERED for row in rows), np.bool_, len(rows))
        cut_off = ~(np.array(fits, np.bool_) | missing | unanswered)
    foreign = cut_off | stored.others(table)
    unusable = missing | foreign | unanswered
    stale = [group.stale(table, now_us) & ~unusable for group in aged]
    nulls = stored.nulls(table)
    nulls[unusable] = False
    return Judged(rows, table, unanswered, missing, foreign, earlier, stale, nulls)


def _upgraded(
    rows: Sequence[bytes | None], stored: StoredRows, previous: PreviousSchemas
) -> tuple[Sequence[bytes | None], Mask]:
    """The rows with those of previous schemas in the present one, and which they are."""
    mark, knows = stored.format.mark, previous.knows
    earlier = [row is not None and not row.startswith(mark) and knows(row) for row in rows]
    if not any(earlier):
        return rows, np.zeros(len(rows), np.bool_)
    both = zip(rows, earlier, strict=True)
    return [previous.upgraded(row) if is_earlier else row for row, is_earlier in both], np.array(earlier)  # type: ignore[arg-type]  # no None is earlier
