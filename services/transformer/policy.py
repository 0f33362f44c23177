"""From what Redis answered to rows that can be served: what a view's policies say about rows that are missing, old or foreign."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from services.transformer.columns import Rows
from services.transformer.found import FOUND, Served, micros
from services.transformer.judged import Judged, judged
from services.transformer.layout.ages import AgedGroup, aged_groups
from services.transformer.layout.versions import PreviousSchemas
from services.transformer.refusals import Refusals
from services.transformer.row import EVENT_TIME, RowFormat
from services.transformer.schema import zero
from services.transformer.statuses import Matrix, Status
from services.transformer.stored_rows import Mask, StoredRows
from services.transformer.views import FeatureView

__all__ = ["FOUND", "RowPolicy", "Served", "micros"]

FEW_ROWS = 8  # below, looking at rows one by one is cheaper than setting numpy up
FOREVER_US = 2**64  # older than any event time


class RowPolicy:
    """The policies of one view as one feature service uses it.

    `used` are the features that the service takes: a null elsewhere in the row is nobody's concern. `observe(found, count)` is
    told what was found before anything is refused. Rows of the view's previous schemas are read too. A row that stays out is
    answered by `missing` for the features of each group, a group that is too old by `stale` for its own.
    """

    def __init__(
        self, name: str, view: FeatureView, used: Collection[str], observe: Callable[[str, int], None]
    ) -> None:
        self.name = name
        self.view = view
        self.format = RowFormat(view.columns)
        self._observe = observe
        self._previous = PreviousSchemas(self.format, view.past)
        self._used = [position for position, feature in enumerate(view.features) if feature.name in used]
        self._aged = aged_groups(self.format, self._used, view.max_age, view.max_ages, view.stale_of)
        taken = [view.features[position] for position in self._used]
        self._must = np.array([view.missing_of(feature.group) == "fail" for feature in taken], np.bool_)
        self._refuse = Refusals(name, self.format, [feature.name for feature in taken])
        schema = self.format.schema
        # Zeros where there is no default: then the policy never serves this row, it fails.
        defaults = [zero(schema[at]) if f.default is None else f.default for at, f in enumerate(view.features)]
        self._stored = StoredRows(self.format, self._used, defaults)
        self._no_nulls = [(group.bitmap, bytes(group.bitmap.stop - group.bitmap.start)) for group in self.format.groups]
        self._oldest: int | None = None
        if len(self.format.groups) == 1 and not self.format.texts:
            self._oldest = self._aged[0].max_age_us if self._aged else FOREVER_US

    def serve(self, rows: Sequence[bytes | None], entities: Sequence[bytes], now_us: int) -> tuple[Rows, Served]:
        """The rows to serve, (N, width), one for each entity. Raises FailedPrecondition where a policy says fail."""
        if len(rows) == 1:  # as most requests have it: no generator for one row
            if self._is_plain(rows[0], now_us):
                self._observe("present", 1)
                return self._stored.laid_out(rows), Served.PRESENT
        elif len(rows) <= FEW_ROWS and all(self._is_plain(row, now_us) for row in rows):
            self._observe("present", len(rows))
            return self._stored.laid_out(rows), Served.PRESENT
        if len(rows) > FEW_ROWS and (table := self._plain_table(rows, now_us)) is not None:
            self._observe("present", len(rows))
            return table, Served.PRESENT
        return self._serve_any(rows, entities, now_us, kept=False)

    def serve_kept(
        self, rows: Sequence[bytes | None], entities: Sequence[bytes], now_us: int, why: str
    ) -> tuple[Rows, Served]:
        """The same while the store does not answer, from rows of before, and UNANSWERED where there is none.

        Raises Unavailable too, where a row is needed that is not known.
        """
        found = judged(rows, self._stored, self._previous, self._aged, now_us)
        if self.view.unavailable == "fail" and found.unanswered.any():
            found.tell(self._observe, kept=True)
            raise self._refuse.unavailable(why)
        table, served = self._serve_found(found, entities, now_us, kept=True)
        return table, Served.REDIS_UNAVAILABLE if found.unanswered.any() else max(served, Served.CACHED)

    def serve_unavailable(self, count: int, why: str) -> tuple[Rows, Served]:
        """Defaults for all; raises Unavailable where the policy says fail."""
        self._observe("unavailable", count)
        if self.view.unavailable == "fail":
            raise self._refuse.unavailable(why)
        return self.defaults(count), Served.REDIS_UNAVAILABLE

    def defaults(self, count: int) -> Rows:
        """Rows of the defaults, and zeros where there is none."""
        return self._stored.defaults(count)

    def statuses(self, rows: Sequence[bytes | None], now_us: int, *, kept: bool = False) -> Matrix:
        """(N, used features): what `serve` makes of each value, or `serve_kept`. It refuses nothing and counts nothing."""
        found = judged(rows, self._stored, self._previous, self._aged, now_us)
        matrix = np.full((len(rows), len(self._used)), Status.CACHED if kept else Status.PRESENT, np.uint8)
        for group, stale in zip(self._aged, found.stale, strict=True):
            if group.policy != "default":
                matrix[np.ix_(stale, self._of(group))] = Status.STALE
        matrix[found.nulls] = Status.NULL
        for group, stale in zip(self._aged, found.stale, strict=True):
            if group.policy == "default":
                matrix[np.ix_(stale, self._of(group))] = Status.DEFAULTED
        matrix[found.missing | found.foreign] = Status.MISSING
        matrix[found.unanswered] = Status.DEFAULTED
        return matrix

    def _is_plain(self, row: bytes | None, now_us: int) -> bool:
        form = self.format
        if row is None or not row.startswith(form.mark):
            return False
        if self._oldest is not None:  # one group and no texts, as most views have it: no loops
            return (
                len(row) == form.width
                and row[form.bitmap] == self._no_nulls[0][1]
                and int.from_bytes(row[EVENT_TIME], "little", signed=True) >= now_us - self._oldest
            )
        if len(row) != form.width and (not form.texts or form.end_of(row) != len(row)):
            return False
        for bitmap, no_nulls in self._no_nulls:
            if row[bitmap] != no_nulls:
                return False
        return not self._aged or not any(group.is_stale(row, now_us) for group in self._aged)

    def _plain_table(self, rows: Sequence[bytes | None], now_us: int) -> Rows | None:
        """The rows laid out, if each of them is plain; None sends them the long way."""
        if not all(self._stored.fits(rows)):
            return None
        table = self._stored.laid_out(rows)
        if self._stored.others(table).any():
            return None
        for bitmap, _ in self._no_nulls:
            if table[:, bitmap].any():
                return None
        for group in self._aged:
            if group.stale(table, now_us).any():
                return None
        return table

    def _serve_any(
        self, rows: Sequence[bytes | None], entities: Sequence[bytes], now_us: int, *, kept: bool
    ) -> tuple[Rows, Served]:
        found = judged(rows, self._stored, self._previous, self._aged, now_us)
        return self._serve_found(found, entities, now_us, kept=kept)

    def _serve_found(self, found: Judged, entities: Sequence[bytes], now_us: int, *, kept: bool) -> tuple[Rows, Served]:
        found.tell(self._observe, kept=kept)
        if found.foreign.any():
            self._refuse.log_foreign(found, entities)
        if self._must.any():
            self._refuse.missing(found, entities, self._must)
        self._refuse.stale(found, entities, self._aged, now_us)

        whole, values, times = found.unusable, found.nulls, []
        served = Served.PRESENT
        for group, stale in zip(self._aged, found.stale, strict=True):
            if not stale.any():
                continue
            if group.policy == "serve":
                served = Served.STALE
            elif len(self.format.groups) == 1:
                whole = whole | stale
            else:  # of the row, the other groups are as good as ever
                values = values | (stale[:, None] & self._of(group))
                times.append((group.event_time, stale))
        if not (whole.any() or values.any()):
            return found.table, served
        return self._stored.with_defaults(found.table, whole, values, times), Served.DEFAULTED

    def _of(self, group: AgedGroup) -> Mask:
        """Which of the used features belong to a group."""
        if len(self.format.groups) == 1:
            return np.ones(len(self._used), np.bool_)
        return np.array([position in group.positions for position in self._used], np.bool_)
