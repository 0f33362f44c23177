"""From what Redis answered to rows that can be served: what a view's policies say about rows that are missing, old or foreign.

Two vocabularies, and they are not the same. What was *found* is counted for each entity and view: present, null, missing,
stale, foreign, unavailable. What was *served* is told to the caller for the request as a whole, as the worst of its rows:
present, stale, defaulted, redis_unavailable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import FailedPrecondition, Unavailable, quoted
from services.transformer.columns import Rows
from services.transformer.row import EVENT_TIME, MARK_BYTES, RowFormat
from services.transformer.views import FeatureView

__all__ = ["FOUND", "RowPolicy", "Served", "micros"]

FOUND = ("present", "null", "missing", "stale", "foreign", "unavailable")
FEW_ROWS = 8  # below, looking at rows one by one is cheaper than setting numpy up
LOGGED_REASONS = 16  # foreign rows come in floods; each reason is logged once

_ZERO: dict[str, float | int | bool] = {"FP32": 0.0, "FP64": 0.0, "INT64": 0, "BOOL": False}

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
    told what was found before anything is refused.
    """

    def __init__(
        self, name: str, view: FeatureView, used: Collection[str], observe: Callable[[str, int], None]
    ) -> None:
        self.name = name
        self.view = view
        self.format = RowFormat(view.columns)
        self._observe = observe
        self._max_age_us = None if view.max_age is None else micros(view.max_age)
        self._used = [position for position, feature in enumerate(view.features) if feature.name in used]
        self._used_names = [view.features[position].name for position in self._used]
        # Zeros where there is no default: then the policy never serves this row, it fails.
        self._defaults = self.format.pack(
            [_ZERO[f.datatype] if f.default is None else f.default for f in view.features], 0
        )
        self._defaults_row = np.frombuffer(self._defaults, np.uint8)
        self._mark = np.frombuffer(self.format.mark, "<u8")
        self._no_nulls = bytes(self.format.bitmap_bytes)
        self._logged: set[str] = set()

    def serve(self, rows: Sequence[bytes | None], entities: Sequence[bytes], now_us: int) -> tuple[Rows, Served]:
        """The rows to serve, (N, width), one for each entity. Raises FailedPrecondition where a policy says fail."""
        oldest_us = -(2**63) if self._max_age_us is None else now_us - self._max_age_us
        if len(rows) <= FEW_ROWS and all(self._is_plain(row, oldest_us) for row in rows):
            self._observe("present", len(rows))
            return self._laid_out(rows), Served.PRESENT
        return self._serve_any(rows, entities, now_us, oldest_us)

    def serve_unavailable(self, count: int, why: str) -> tuple[Rows, Served]:
        """Defaults for all; raises Unavailable where the policy says fail."""
        self._observe("unavailable", count)
        if self.view.unavailable == "fail":
            raise Unavailable(
                f"feature store: {why}; view {quoted(self.name)} is not served without it (unavailable: fail)",
                reason="FEATURE_STORE_UNAVAILABLE",
                rejected=True,  # nothing has been asked of a model yet
            )
        return np.broadcast_to(self._defaults_row, (count, self.format.width)), Served.REDIS_UNAVAILABLE

    def _is_plain(self, row: bytes | None, oldest_us: int) -> bool:
        return (
            row is not None
            and len(row) == self.format.width
            and row.startswith(self.format.mark)
            and row[self.format.bitmap] == self._no_nulls
            and int.from_bytes(row[EVENT_TIME], "little", signed=True) >= oldest_us
        )

    def _serve_any(
        self, rows: Sequence[bytes | None], entities: Sequence[bytes], now_us: int, oldest_us: int
    ) -> tuple[Rows, Served]:
        width = self.format.width
        table = self._laid_out([self._defaults if row is None or len(row) != width else row for row in rows])
        missing = np.fromiter((row is None for row in rows), np.bool_, len(rows))
        cut_off = np.fromiter((row is not None and len(row) != width for row in rows), np.bool_, len(rows))
        foreign = cut_off | (table[:, :MARK_BYTES].view("<u8") != self._mark).ravel()
        event_times = table[:, EVENT_TIME].view("<i8").ravel()
        stale = (event_times < oldest_us) & ~missing & ~foreign
        nulls = self._nulls(table)
        nulls[missing | foreign] = False
        null: _Mask = np.logical_or.reduce(nulls, axis=1)

        self._count(missing, foreign, stale, null)
        if foreign.any():
            self._log_foreign(rows, entities, foreign)
        if self.view.missing == "fail":
            self._refuse_missing(rows, entities, missing, foreign, nulls)
        if self.view.stale == "fail" and stale.any():
            self._refuse_stale(entities, stale, event_times, now_us)

        replaced = missing | foreign | (stale if self.view.stale == "default" else False)
        served = Served.STALE if stale.any() and self.view.stale == "serve" else Served.PRESENT
        if replaced.any() or null.any():
            served = Served.DEFAULTED
            table = table.copy()
            table[replaced] = self._defaults_row
            for at, position in enumerate(self._used):
                if nulls[:, at].any():
                    stored = slice(self.format.offsets[position], self.format.offsets[position + 1])
                    table[nulls[:, at], stored] = self._defaults_row[stored]
        return table, served

    def _laid_out(self, rows: Sequence[bytes | None]) -> Rows:
        return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), self.format.width)  # type: ignore[arg-type]  # no None is left

    def _nulls(self, table: Rows) -> _Mask:
        """(N, used features): where a feature that the service takes is null."""
        bits = np.unpackbits(np.ascontiguousarray(table[:, self.format.bitmap]), axis=1, bitorder="little")
        return bits[:, self._used].astype(np.bool_)

    def _count(self, missing: _Mask, foreign: _Mask, stale: _Mask, null: _Mask) -> None:
        counts = {"missing": missing, "foreign": foreign, "stale": stale, "null": null & ~stale}
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

    def _refuse_stale(
        self, entities: Sequence[bytes], stale: _Mask, event_times: NDArray[np.int64], now_us: int
    ) -> None:
        first = int(stale.argmax())
        age_s = (now_us - int(event_times[first])) / 1e6
        raise FailedPrecondition(
            f"{self._where(entities[first], self._used_names)}: {age_s:.0f} s old, expected at most "
            f"{self.view.max_age or 0:.0f} s (stale: fail){_more(stale)}",
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
