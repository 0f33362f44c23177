"""Rows of one schema laid end to end: which of them can be, what in them is null, and defaults in the place of what is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.transformer.columns import Rows, TextRows
from services.transformer.row import MARK_BYTES, RowFormat
from services.transformer.schema import Value

__all__ = ["Mask", "StoredRows"]

Mask = NDArray[np.bool_]


class StoredRows:
    """Makes (N, width) arrays of rows. `used` are the positions of the features that somebody takes; no other texts are read.

    `defaults` has a value for each feature of the schema.
    """

    def __init__(self, layout: RowFormat, used: Sequence[int], defaults: Sequence[Value]) -> None:
        self.format = layout
        self.default = layout.pack(defaults, 0)
        """The defaults as a row, whose event time is 0."""
        self._used = used
        self._bits = _bits(layout, used)
        self._default_row = np.frombuffer(self.default[: layout.width], np.uint8)
        self._texts = [(at, layout.slices[p]) for at, p in enumerate(layout.texts) if p in used]
        self._text_at = {position: at for at, position in enumerate(layout.texts)}
        self._default_texts = self._texts_of([self.default], self._default_row.reshape(1, -1))[0]
        self._mark = np.frombuffer(layout.mark, "<u8")

    def fits(self, rows: Sequence[bytes | None]) -> list[bool]:
        """Which rows are as long as they must be; a text that is not where it should be makes its row too short."""
        form, width = self.format, self.format.width
        if not form.texts:
            return [row is not None and len(row) == width for row in rows]
        return [row is not None and len(row) >= width and form.end_of(row) == len(row) for row in rows]

    def laid_out(self, rows: Sequence[bytes | None]) -> Rows:
        """The rows, all of which fit."""
        width = self.format.width
        if not self.format.texts:
            held = rows[0] if len(rows) == 1 else b"".join(rows)  # type: ignore[arg-type]  # no None is left
            return np.ndarray((len(rows), width), np.uint8, held)  # half of what `frombuffer` and `reshape` cost
        whole = [row for row in rows if row is not None]
        fixed = np.frombuffer(b"".join([row[:width] for row in whole]), np.uint8).reshape(len(whole), width)
        return TextRows.of(fixed, self._texts_of(whole, fixed))

    def others(self, table: Rows) -> Mask:
        """Which rows say that they are of another schema."""
        marks: Mask = table[:, :MARK_BYTES].view(np.ndarray).view("<u8") != self._mark
        return marks.ravel()

    def nulls(self, table: Rows) -> Mask:
        """(N, used features): where a feature that somebody takes is null."""
        groups = self.format.groups
        held = table[:, groups[0].bitmap] if len(groups) == 1 else np.hstack([table[:, g.bitmap] for g in groups])
        bits = np.unpackbits(np.ascontiguousarray(held), axis=1, bitorder="little")
        return bits[:, self._bits].astype(np.bool_)

    def defaults(self, count: int) -> Rows:
        """Rows of the defaults."""
        rows = np.broadcast_to(self._default_row, (count, self.format.width))
        if self.format.texts:
            rows = TextRows.of(rows, np.broadcast_to(self._default_texts, (count, len(self._default_texts))))
        return rows

    def with_defaults(self, rows: Rows, whole: Mask, values: Mask, times: Sequence[tuple[slice, Mask]] = ()) -> Rows:
        """A copy with defaults for `whole` rows, for `values` (N, used features), and no event time at `times`."""
        table = np.array(rows)
        texts = rows.texts.copy() if isinstance(rows, TextRows) else None
        table[whole] = self._default_row
        if texts is not None:
            texts[whole] = self._default_texts
        for event_time, which in times:
            table[which, event_time] = 0
        for at in np.flatnonzero(values.any(axis=0)).tolist():
            position, which = self._used[at], values[:, at]
            table[which, self.format.slices[position]] = self._default_row[self.format.slices[position]]
            if texts is not None and position in self._text_at:
                texts[which, self._text_at[position]] = self._default_texts[self._text_at[position]]
        return table if texts is None else TextRows.of(table, texts)

    def _texts_of(self, rows: Sequence[bytes], fixed: Rows) -> NDArray[np.object_]:
        """(N, texts): those that are taken; the others stay None."""
        texts = np.empty((len(rows), len(self.format.texts)), np.object_)
        for at, stored in self._texts:
            places = fixed[:, stored].view("<u4").tolist()
            for number, (row, (start, length)) in enumerate(zip(rows, places, strict=True)):
                texts[number, at] = row[start : start + length]
        return texts


def _bits(layout: RowFormat, positions: Sequence[int]) -> list[int]:
    """Where the null bits of these features stand in the bitmaps of all groups, laid end to end."""
    bits = {}
    start = 0
    for group in layout.groups:
        bits.update({position: start + bit for bit, position in enumerate(group.positions)})
        start += 8 * (group.bitmap.stop - group.bitmap.start)
    return [bits[position] for position in positions]
