"""From what Redis answered to rows that can be served: what a view's policies say about rows that are missing, old or foreign.

Two vocabularies, and they are not the same. What was *found* is counted for each entity and view: present, null, previous (a row
of an earlier schema), missing, stale, foreign, unavailable. What was *served* is told to the caller for the request as a whole,
as the worst of its rows: present, stale, defaulted, redis_unavailable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import FailedPrecondition, Unavailable, quoted
from services.transformer.columns import Rows, TextRows
from services.transformer.layout.ages import aged_groups
from services.transformer.layout.versions import PreviousSchemas
from services.transformer.row import EVENT_TIME, MARK_BYTES, RowFormat
from services.transformer.schema import zero
from services.transformer.statuses import Matrix, Status
from services.transformer.views import FeatureView

__all__ = ["FOUND", "RowPolicy", "Served", "micros"]

FOUND = ("present", "null", "previous", "missing", "stale", "foreign", "unavailable")
FEW_ROWS = 8  # below, looking at rows one by one is cheaper than setting numpy up
FOREVER_US = 2**64  # older than any event time
LOGGED_REASONS = 16  # foreign rows come in floods; each reason is logged once

_log = logging.getLogger(__name__)
_Mask = NDArray[np.bool_]


class Served(IntEnum):
    """What the caller got, from best to worst; the response says the word."""

    PRESENT = 0
    STALE = 1
    DEFAULTED = 2
    REDIS_UNAVAILABLE = 3

    @property
    def word(self) -> str:
        return self.name.lower()


def micros(seconds: float) -> int:
    """A time or duration as rows hold it."""
    return round(seconds * 1e6)


class RowPolicy:
    """The policies of one view as one feature service uses it.

    `used` are the features that the service takes: a null elsewhere in the row is nobody's concern. `observe(found, count)` is
    told what was found before anything is refused. Rows of the view's previous schemas are read too.
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
        self._used_names = [view.features[position].name for position in self._used]
        self._bits = _bits(self.format, self._used)
        self._aged = aged_groups(self.format, self._used, view.max_age, view.max_ages)
        schema = self.format.schema
        # Zeros where there is no default: then the policy never serves this row, it fails.
        self._defaults = self.format.pack(
            [zero(schema[at]) if f.default is None else f.default for at, f in enumerate(view.features)], 0
        )
        self._defaults_row = np.frombuffer(self._defaults[: self.format.width], np.uint8)
        self._texts = [(at, self.format.slices[p]) for at, p in enumerate(self.format.texts) if p in self._used]
        self._text_at = {position: at for at, position in enumerate(self.format.texts)}
        self._default_texts = self._texts_of([self._defaults], self._defaults_row.reshape(1, -1))[0]
        self._mark = np.frombuffer(self.format.mark, "<u8")
        self._no_nulls = [(group.bitmap, bytes(group.bitmap.stop - group.bitmap.start)) for group in self.format.groups]
        self._oldest: int | None = None
        if len(self.format.groups) == 1 and not self.format.texts:
            self._oldest = self._aged[0].max_age_us if self._aged else FOREVER_US
        self._logged: set[str] = set()

    def serve(self, rows: Sequence[bytes | None], entities: Sequence[bytes], now_us: int) -> tuple[Rows, Served]:
        """The rows to serve, (N, width), one for each entity. Raises FailedPrecondition where a policy says fail."""
        if len(rows) <= FEW_ROWS and all(self._is_plain(row, now_us) for row in rows):
            self._observe("present", len(rows))
            return self._laid_out(rows), Served.PRESENT
        if len(rows) > FEW_ROWS and (table := self._plain_table(rows, now_us)) is not None:
            self._observe("present", len(rows))
            return table, Served.PRESENT
        return self._serve_any(rows, entities, now_us)

    def serve_unavailable(self, count: int, why: str) -> tuple[Rows, Served]:
        """Defaults for all; raises Unavailable where the policy says fail."""
        self._observe("unavailable", count)
        if self.view.unavailable == "fail":
            raise Unavailable(
                f"feature store: {why}; view {quoted(self.name)} is not served without it (unavailable: fail)",
                reason="FEATURE_STORE_UNAVAILABLE",
                rejected=True,  # nothing has been asked of a model yet
            )
        return self.defaults(count), Served.REDIS_UNAVAILABLE

    def defaults(self, count: int) -> Rows:
        """Rows of the defaults, and zeros where there is none."""
        rows = np.broadcast_to(self._defaults_row, (count, self.format.width))
        if self.format.texts:
            rows = TextRows.of(rows, np.broadcast_to(self._default_texts, (count, len(self._default_texts))))
        return rows

    def statuses(self, rows: Sequence[bytes | None], now_us: int) -> Matrix:
        """(N, used features): what `serve` makes of each value. It refuses nothing and counts nothing."""
        if self._previous:
            rows, _ = self._upgraded(rows)
        fits = self._fits(rows)
        table = self._laid_out([row if fit else self._defaults for row, fit in zip(rows, fits, strict=True)])
        usable = np.array(fits, np.bool_)
        usable &= (table[:, :MARK_BYTES].view(np.ndarray).view("<u8") == self._mark).ravel()
        matrix = np.zeros((len(rows), len(self._used)), np.uint8)
        replaced = np.zeros(len(rows), np.bool_)
        for group in self._aged:
            stale = group.stale(table, now_us)
            if self.view.stale == "default":
                replaced |= stale
            else:
                of_group = np.array([position in group.positions for position in self._used], np.bool_)
                matrix[np.ix_(stale, of_group)] = Status.STALE
        matrix[self._nulls(table)] = Status.NULL
        matrix[replaced] = Status.DEFAULTED
        matrix[~usable] = Status.MISSING
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
        if not all(self._fits(rows)):
            return None
        table = self._laid_out(rows)
        if (table[:, :MARK_BYTES].view(np.ndarray).view("<u8") != self._mark).any():
            return None
        for bitmap, _ in self._no_nulls:
            if table[:, bitmap].any():
                return None
        for group in self._aged:
            if group.stale(table, now_us).any():
                return None
        return table

    def _serve_any(self, rows: Sequence[bytes | None], entities: Sequence[bytes], now_us: int) -> tuple[Rows, Served]:
        earlier: _Mask | None = None
        if self._previous:
            rows, earlier = self._upgraded(rows)
        fits = self._fits(rows)
        missing = cut_off = np.zeros(len(rows), np.bool_)
        if all(fits):
            table = self._laid_out(rows)
        else:
            table = self._laid_out([row if fit else self._defaults for row, fit in zip(rows, fits, strict=True)])
            missing = np.fromiter((row is None for row in rows), np.bool_, len(rows))
            cut_off = ~(np.array(fits) | missing)
        foreign = cut_off | (table[:, :MARK_BYTES].view(np.ndarray).view("<u8") != self._mark).ravel()
        stale = np.zeros(len(rows), np.bool_)
        for group in self._aged:
            stale |= group.stale(table, now_us)
        stale &= ~(missing | foreign)
        nulls = self._nulls(table)
        nulls[missing | foreign] = False
        null: _Mask = np.logical_or.reduce(nulls, axis=1)

        self._count(missing, foreign, stale, earlier, null)
        if foreign.any():
            self._log_foreign(rows, entities, foreign)
        if self.view.missing == "fail":
            self._refuse_missing(rows, entities, missing, foreign, nulls)
        if self.view.stale == "fail" and stale.any():
            self._refuse_stale(entities, stale, table, now_us)

        replaced = missing | foreign | (stale if self.view.stale == "default" else False)
        served = Served.STALE if stale.any() and self.view.stale == "serve" else Served.PRESENT
        if replaced.any() or null.any():
            served = Served.DEFAULTED
            table = self._with_defaults(table, replaced, nulls)
        return table, served

    def _with_defaults(self, rows: Rows, replaced: _Mask, nulls: _Mask) -> Rows:
        table = np.array(rows)
        texts = rows.texts.copy() if isinstance(rows, TextRows) else None
        table[replaced] = self._defaults_row
        if texts is not None:
            texts[replaced] = self._default_texts
        for at, position in enumerate(self._used):
            null = nulls[:, at]
            if not null.any():
                continue
            table[null, self.format.slices[position]] = self._defaults_row[self.format.slices[position]]
            if texts is not None and position in self._text_at:
                texts[null, self._text_at[position]] = self._default_texts[self._text_at[position]]
        return table if texts is None else TextRows.of(table, texts)

    def _upgraded(self, rows: Sequence[bytes | None]) -> tuple[Sequence[bytes | None], _Mask]:
        """The rows with those of previous schemas in the present one, and which they are."""
        mark, knows = self.format.mark, self._previous.knows
        earlier = [row is not None and not row.startswith(mark) and knows(row) for row in rows]
        if not any(earlier):
            return rows, np.zeros(len(rows), np.bool_)
        both = zip(rows, earlier, strict=True)
        return [self._previous.upgraded(row) if is_earlier else row for row, is_earlier in both], np.array(earlier)  # type: ignore[arg-type]  # no None is earlier

    def _fits(self, rows: Sequence[bytes | None]) -> list[bool]:
        """Which rows are as long as they must be; a text that is not where it should be makes its row too short."""
        form, width = self.format, self.format.width
        if not form.texts:
            return [row is not None and len(row) == width for row in rows]
        return [row is not None and len(row) >= width and form.end_of(row) == len(row) for row in rows]

    def _laid_out(self, rows: Sequence[bytes | None]) -> Rows:
        width = self.format.width
        if not self.format.texts:
            return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)  # type: ignore[arg-type]  # no None is left
        whole = [row for row in rows if row is not None]
        fixed = np.frombuffer(b"".join([row[:width] for row in whole]), np.uint8).reshape(len(whole), width)
        return TextRows.of(fixed, self._texts_of(whole, fixed))

    def _texts_of(self, rows: Sequence[bytes], fixed: Rows) -> NDArray[np.object_]:
        """(N, texts): those that the service takes; the others stay None."""
        texts = np.empty((len(rows), len(self.format.texts)), np.object_)
        for at, stored in self._texts:
            places = fixed[:, stored].view("<u4").tolist()
            for number, (row, (start, length)) in enumerate(zip(rows, places, strict=True)):
                texts[number, at] = row[start : start + length]
        return texts

    def _nulls(self, table: Rows) -> _Mask:
        """(N, used features): where a feature that the service takes is null."""
        groups = self.format.groups
        held = table[:, groups[0].bitmap] if len(groups) == 1 else np.hstack([table[:, g.bitmap] for g in groups])
        bits = np.unpackbits(np.ascontiguousarray(held), axis=1, bitorder="little")
        return bits[:, self._bits].astype(np.bool_)

    def _count(self, missing: _Mask, foreign: _Mask, stale: _Mask, earlier: _Mask | None, null: _Mask) -> None:
        counts = {"missing": missing, "foreign": foreign, "stale": stale, "null": null & ~stale}
        if earlier is not None:
            counts["previous"] = earlier & ~(foreign | stale)
            counts["null"] = counts["null"] & ~earlier
        left = len(missing)
        for found, mask in counts.items():
            if count := int(mask.sum()):
                self._observe(found, count)
                left -= count
        if left:
            self._observe("present", left)

    def _refuse_missing(
        self,
        rows: Sequence[bytes | None],
        entities: Sequence[bytes],
        missing: _Mask,
        foreign: _Mask,
        nulls: _Mask,
    ) -> None:
        faulty = missing | foreign | nulls.any(axis=1)
        if not faulty.any():
            return
        first = int(faulty.argmax())
        row = rows[first]
        names = self._used_names if row is None or foreign[first] else [self._used_names[int(nulls[first].argmax())]]
        what = "no row" if row is None else self.format.why_foreign(row) if foreign[first] else "null"
        raise FailedPrecondition(
            f"{self._where(entities[first], names)}: {what} (missing: fail){_more(faulty)}",
            reason="FEATURE_FOREIGN" if foreign[first] else "FEATURE_MISSING",
        )

    def _refuse_stale(self, entities: Sequence[bytes], stale: _Mask, table: Rows, now_us: int) -> None:
        first = int(stale.argmax())
        group = next(group for group in self._aged if group.stale(table, now_us)[first])
        names = [self.view.features[position].name for position in group.positions] or self._used_names
        age_s = (now_us - int(group.event_times(table)[first])) / 1e6
        raise FailedPrecondition(
            f"{self._where(entities[first], names)}: {age_s:.0f} s old, expected at most "
            f"{group.max_age_us / 1e6:.0f} s (stale: fail){_more(stale)}",
            reason="FEATURE_STALE",
        )

    def _where(self, entity: bytes, names: Sequence[str]) -> str:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"feature view {quoted(self.name)}: entity {quoted(entity)}: feature {quoted(names[0])}{others}"

    def _log_foreign(self, rows: Sequence[bytes | None], entities: Sequence[bytes], foreign: _Mask) -> None:
        first = int(foreign.argmax())
        row = rows[first]
        reason = self.format.why_foreign(row) if row is not None else ""
        if reason not in self._logged and len(self._logged) < LOGGED_REASONS:
            self._logged.add(reason)
            fields = {"view": self.name, "entity": quoted(entities[first]), "reason": reason}
            _log.error("a stored row is not of the view's schema", extra=fields)


def _more(mask: _Mask) -> str:
    others = int(mask.sum()) - 1
    return f"; {others} more entities likewise" if others else ""


def _bits(layout: RowFormat, positions: Sequence[int]) -> list[int]:
    """Where the null bits of these features stand in the bitmaps of all groups, laid end to end."""
    bits = {}
    start = 0
    for group in layout.groups:
        bits.update({position: start + bit for bit, position in enumerate(group.positions)})
        start += 8 * (group.bitmap.stop - group.bitmap.start)
    return [bits[position] for position in positions]
