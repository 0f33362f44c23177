"""Rows that other layouts hold as the fields of a Redis hash, one field a feature: made into packed rows of the view.

So policies, tensors and caches know one kind of row. A batch is taken column by column; whatever a batch can't be (a value that
does not fit, say) is told row by row, since one bad row must not harm its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import quoted
from infermesh.tensors import DATATYPES, Array
from services.transformer.found import UNANSWERED
from services.transformer.row import NEVER, RowFormat, UnreadableRow
from services.transformer.schema import TEXT, Column, Value

__all__ = ["Codec", "Fields", "Plain"]

VALUES_AT_ONCE = 2_500  # 1 ms: for longer the event loop should not be kept from the other requests
VALUES_ONE_BY_ONE = 500  # the same, of rows with texts or vectors


Plain = Callable[[Sequence[bytes]], bytes | None]
"""From scalars of one datatype to their bytes end to end, where each is as it should be; None sends them the long way."""


class Codec(Protocol):
    """How the fields of a layout are written."""

    def is_null(self, raw: bytes) -> bool:
        """Whether a field says that there is no value."""
        ...

    def value(self, raw: bytes, column: Column) -> Value:
        """The value of a field. Raises ValueError for what the feature can't hold."""
        ...

    def values(self, raws: Sequence[bytes | None], datatype: str) -> tuple[Array, Array | None]:
        """Scalars at once, and which of them are null (None: none is); may raise anything where `value` would, or one is odd."""
        ...

    def event_time_us(self, raw: bytes) -> int:
        """The event time that a field holds. Raises ValueError for what is none."""
        ...


class Fields:
    """Reads what HMGET answers for each entity: the `used` features' fields in the order of the view, then the event time's.

    `event_time` is that field's name; without one, nobody knows how old a row is, and its event time is NEVER. Features that
    are not used are null in the rows; left out: all are. `plain` has by datatype what reads good values without numpy, which for
    one row is most of the work; rows with any other datatype go the long way.
    """

    def __init__(
        self,
        layout: RowFormat,
        codec: Codec,
        event_time: str,
        used: Collection[str] | None = None,
        plain: Mapping[str, Plain] | None = None,
    ) -> None:
        self._layout = layout
        self._codec = codec
        self._event_time = event_time
        schema = layout.schema
        self.positions = [at for at, column in enumerate(schema) if used is None or column.name in used]
        """Of the features that are asked for, in the order of their fields."""
        self._columns = [schema[at] for at in self.positions]
        self._count = len(self.positions) + bool(event_time)
        is_table = len(layout.groups) == 1 and not any(c.shape or c.datatype == TEXT for c in self._columns)
        self._runs = _runs(layout, self.positions) if is_table else []
        known = plain or {}
        self._plain: list[tuple[int, int, slice, Plain]] = []
        if all(datatype in known for _, _, _, datatype in self._runs):
            self._plain = [(first, last, at, known[datatype]) for first, last, at, datatype in self._runs]
        self.rows_at_once = max(1, (VALUES_AT_ONCE if self._runs else VALUES_ONE_BY_ONE) // self._count)
        self._blank = self._blank_row()

    def decode(self, replies: Sequence[Any]) -> list[bytes | None]:
        """A packed row for each reply; None where there is no field, and an UnreadableRow where one does not fit.

        UNANSWERED, in the place of a reply, stays what it is.
        """
        rows: list[bytes | None] = [None] * len(replies)
        there = []
        for at, reply in enumerate(replies):
            if not isinstance(reply, list):
                rows[at] = UNANSWERED if reply is UNANSWERED else _unreadable(reply)
            elif self._plain and (row := self._plain_row(reply)) is not None:
                rows[at] = row
            elif reply.count(None) != self._count:
                there.append(at)
        if there and self._runs:
            try:
                packed = self._table([replies[at] for at in there])
            except (ValueError, OverflowError, KeyError, IndexError, TypeError):
                pass  # one of them does not fit: which one is told below
            else:
                for at, row in zip(there, packed, strict=True):
                    rows[at] = row
                return rows
        for at in there:
            rows[at] = self._row(replies[at])
        return rows

    def _plain_row(self, reply: Sequence[Any]) -> bytes | None:
        """A row of which each value is there and as it should be; None is no verdict on any other."""
        row = bytearray(self._blank)
        try:
            for first, last, stored, read in self._plain:
                values = read(reply[first:last])
                if values is None:
                    return None
                row[stored] = values
            row[self._layout.groups[0].event_time] = self._time_us(reply).to_bytes(8, "little", signed=True)
        except (ValueError, TypeError):  # a None among them, for one
            return None
        return bytes(row)

    def _row(self, reply: Sequence[bytes | None]) -> bytes:
        try:
            time_us = self._time_us(reply)
        except ValueError as error:
            return UnreadableRow(f"event time: {error}")
        values: list[Value] = [None] * len(self._layout.schema)
        for raw, at, column in zip(reply, self.positions, self._columns, strict=False):
            try:
                if raw is not None and not self._codec.is_null(raw):
                    values[at] = self._codec.value(raw, column)
            except ValueError as error:
                return UnreadableRow(f"feature {quoted(column.name)}: {error}")
        return self._layout.pack_fitting(values, time_us)

    def _time_us(self, reply: Sequence[bytes | None]) -> int:
        if not self._event_time:
            return NEVER
        raw = reply[-1]
        if raw is None:
            raise ValueError(f"no field {quoted(self._event_time)}")
        return self._codec.event_time_us(raw)

    def _table(self, replies: Sequence[Sequence[bytes | None]]) -> list[bytes]:
        """Rows without texts and shapes, all at once; raises where one of them is no row."""
        layout, count = self._layout, len(replies)
        table = np.empty((count, layout.width), np.uint8)
        table[:] = np.frombuffer(self._blank, np.uint8)
        nulls: NDArray[np.bool_] | None = None
        for first, last, stored, datatype in self._runs:
            raws = [raw for reply in replies for raw in reply[first:last]]
            values, null = self._codec.values(raws, datatype)
            dtype = DATATYPES[datatype].dtype
            table[:, stored] = values.astype(dtype, copy=False).reshape(count, -1).view(np.uint8)
            if null is not None:
                if nulls is None:
                    nulls = self._unused(count)
                nulls[:, self.positions[first:last]] = null.reshape(count, -1)
        group = layout.groups[0]
        times = np.array([self._time_us(reply) for reply in replies], "<i8")
        table[:, group.event_time] = times.reshape(count, 1).view(np.uint8)
        if nulls is not None:
            table[:, group.bitmap] = np.packbits(nulls, axis=1, bitorder="little")
        flat, width = table.tobytes(), layout.width
        return [flat[at : at + width] for at in range(0, len(flat), width)]

    def _unused(self, count: int) -> NDArray[np.bool_]:
        """(N, features): null is what nobody has asked for."""
        nulls = np.ones((count, len(self._layout.schema)), np.bool_)
        nulls[:, self.positions] = False
        return nulls

    def _blank_row(self) -> bytes:
        """A row of zeros in which what is not asked for is null; b"" where rows are not made of runs."""
        layout = self._layout
        if not self._runs:
            return b""
        row = np.zeros(layout.width, np.uint8)
        row[: len(layout.mark)] = np.frombuffer(layout.mark, np.uint8)
        for position in layout.texts:  # nobody takes them: each is empty, and stands where it would
            row[layout.slices[position]] = np.array([layout.width, 0], "<u4").view(np.uint8)
        row[layout.groups[0].bitmap] = np.packbits(self._unused(1), axis=1, bitorder="little")[0]
        return row.tobytes()


def _runs(layout: RowFormat, positions: Sequence[int]) -> list[tuple[int, int, slice, str]]:
    """Neighbours of one datatype: fields from, to; their bytes; the datatype."""
    runs: list[tuple[int, int, slice, str]] = []
    for field, position in enumerate(positions):
        datatype, stored = layout.schema[position].datatype, layout.slices[position]
        if runs and runs[-1][3] == datatype and runs[-1][2].stop == stored.start:
            first, _, before, _ = runs.pop()
            runs.append((first, field + 1, slice(before.start, stored.stop), datatype))
        else:
            runs.append((field, field + 1, stored, datatype))
    return runs


def _unreadable(reply: object) -> bytes:
    """What is no hash is a foreign row; any other error is one of the store, and not this row's."""
    if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
        raise reply
    return UnreadableRow("the key holds no hash")
