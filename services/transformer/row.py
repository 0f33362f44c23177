"""The packed row: one entity's features of one view, as the bytes of one Redis string. docs/feature-format.md is the contract.

    magic, version, fingerprint (8 bytes) │ event time │ null bitmap, padded to 8 bytes │ columns, fixed width, little-endian
                                          └──────── once for each source group; a view without groups has one ────────┘

All rows of a view have the same width, so N of them laid end to end are an (N, width) array of bytes, and a run of columns of one
datatype is a slice of it. Texts alone stand behind that, in a tail; their fixed part says where.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from services.transformer.schema import DATATYPES, INT64, TEXT, Column, Value, fingerprint, flat, unfit, zero

__all__ = [
    "DATATYPES",
    "EVENT_TIME",
    "HEADER_BYTES",
    "INT64",
    "MARK_BYTES",
    "NEVER",
    "ForeignRow",
    "Group",
    "Row",
    "RowFormat",
    "UnreadableRow",
    "Value",
    "unfit",
]

MAGIC = b"FR"
FLAGS = 0
NEVER = -(2**63)  # event time of a group that nobody has written yet, and of a row whose time nobody knows

_MARK = struct.Struct("<2sBBI")  # magic, format version, flags, schema fingerprint: equal in all rows of a schema
_EVENT_TIME = struct.Struct("<q")  # microseconds since 1970-01-01T00:00:00Z
MARK_BYTES = _MARK.size
HEADER_BYTES = _MARK.size + _EVENT_TIME.size
EVENT_TIME = slice(MARK_BYTES, HEADER_BYTES)  # of the first group
ALIGNMENT = 8  # keeps event times and columns of 8 bytes aligned in memory

VERSION_1 = ("FP32", "FP64", "INT64", "BOOL")  # a schema of these alone is written as version 1, whose readers are many


class ForeignRow(ValueError):
    """Bytes that are no row of this schema; the text says why."""


class UnreadableRow(bytes):
    """Stands for a row that another layout held and that could not be read: foreign to every format, for a reason of its own."""

    why: str

    def __new__(cls, why: str) -> UnreadableRow:
        row = super().__new__(cls, b"unreadable")  # not empty: whoever asks `if row` means one that is there
        row.why = why
        return row


class Row(NamedTuple):
    """A row that was unpacked. A feature that is None is null: known to have no value. The time is that of the oldest group."""

    event_time_us: int
    values: tuple[Value, ...]


class Group(NamedTuple):
    """A part of the row with an event time of its own: where it stands, and the positions of its columns in the schema."""

    name: str
    event_time: slice
    bitmap: slice
    positions: tuple[int, ...]


class RowFormat:
    """How the rows of one schema are laid out. `columns` are (name, datatype) pairs in order, or whole `Column`s.

    The fingerprint is made of exactly these: another name, datatype, shape, group or order is another schema, and its rows are
    foreign here. Raises ValueError for a column that no row can have.
    """

    def __init__(self, columns: Sequence[tuple[str, str] | Column]) -> None:
        self.schema = tuple(Column(*column) for column in columns)
        for column in self.schema:
            column.check()
        self.columns = tuple((column.name, column.datatype) for column in self.schema)
        simple = all(column.datatype in VERSION_1 and not column.shape and not column.group for column in self.schema)
        self.version = 1 if simple else 2
        self.fingerprint = fingerprint(self.schema)
        self.mark = _MARK.pack(MAGIC, self.version, FLAGS, self.fingerprint)
        self.groups, self.slices, self.width = _laid_out(self.schema)
        self.offsets = (*(each.start for each in self.slices), self.width)
        self.bitmap = self.groups[0].bitmap
        self.bitmap_bytes = self.bitmap.stop - self.bitmap.start
        self.texts = tuple(p for g in self.groups for p in g.positions if self.schema[p].datatype == TEXT)
        """Positions of the texts in the order in which the tail holds them."""
        self._struct = struct.Struct("<" + _codes(self.schema, self.groups, self.slices))
        self._zeros = [flat(zero(column), column.shape) or [] for column in self.schema]
        self._types: tuple[type, ...] = ()
        self._plain = not self.texts and len(self.groups) == 1 and not any(column.shape for column in self.schema)
        if self._plain:
            self._types = tuple(_type(column.datatype) for column in self.schema)

    def pack(self, values: Sequence[Value], event_time_us: int | Sequence[int]) -> bytes:
        """A row. Raises ValueError naming the feature whose value its datatype can't hold; None is null.

        One event time is for all groups; several are in the order of `groups`, and NEVER stands for one that was not written.
        """
        if len(values) != len(self.schema):
            raise ValueError(f"expected {len(self.schema)} values, got {len(values)}")
        if self._types and all(type(v) is t or v is None for v, t in zip(values, self._types, strict=True)):
            try:
                return self.pack_fitting(values, event_time_us)  # `struct` looks at the ranges
            except (struct.error, OverflowError):
                pass  # and does not say which value it was
        for value, (name, datatype, shape, _) in zip(values, self.schema, strict=True):
            if value is not None and (problem := unfit(value, datatype, shape)) is not None:
                raise ValueError(f'feature "{name}": {problem}')
        return self.pack_fitting(values, event_time_us)

    def pack_fitting(self, values: Sequence[Any], event_time_us: int | Sequence[int]) -> bytes:
        """A row of values that are known to fit: `pack` without the look at each."""
        times = [event_time_us] * len(self.groups) if isinstance(event_time_us, int) else event_time_us
        if len(times) != len(self.groups):
            raise ValueError(f"expected an event time for each of {len(self.groups)} groups, got {len(times)}")
        if self._plain:  # as below, without a look at each column
            nulls = sum(1 << position for position, value in enumerate(values) if value is None)
            bitmap = nulls.to_bytes(self.bitmap_bytes, "little")
            return self._struct.pack(self.mark, times[0], bitmap, *[0 if v is None else v for v in values])
        fields: list[Any] = [self.mark]
        tail: list[bytes] = []
        end = self.width
        for group, time_us in zip(self.groups, times, strict=True):
            nulls = 0
            filled: list[Any] = []
            for bit, position in enumerate(group.positions):
                value, column = values[position], self.schema[position]
                if value is None:
                    nulls |= 1 << bit
                if column.datatype == TEXT:
                    text = b"" if value is None else value.encode() if isinstance(value, str) else value
                    filled += (end, len(text))
                    tail.append(text)
                    end += len(text)
                elif value is None:
                    filled += self._zeros[position]
                elif column.shape:
                    filled += flat(value, column.shape) or []
                else:
                    filled.append(value)
            fields += (time_us, nulls.to_bytes(group.bitmap.stop - group.bitmap.start, "little"), *filled)
        return self._struct.pack(*fields) + b"".join(tail)

    def unpack(self, row: bytes) -> Row:
        """What was packed; texts as bytes. Raises ForeignRow for anything else."""
        if reason := self.why_foreign(row):
            raise ForeignRow(reason)
        fields = self._struct.unpack_from(row)
        if self._plain:
            nulls, values = int.from_bytes(fields[2], "little"), fields[3:]
            return Row(fields[1], tuple(None if nulls >> bit & 1 else v for bit, v in enumerate(values)))
        taken: list[Value] = [None] * len(self.schema)
        at = 1
        for group in self.groups:
            nulls = int.from_bytes(fields[at + 1], "little")
            at += 2
            for bit, position in enumerate(group.positions):
                column = self.schema[position]
                size = 2 if column.datatype == TEXT else column.elements
                if not nulls >> bit & 1:
                    taken[position] = _value(fields[at : at + size], column, row)
                at += size
        return Row(min(self.event_times(row)), tuple(taken))

    def event_times(self, row: bytes) -> tuple[int, ...]:
        """The event time of each group, in the order of `groups`; of a row that is not foreign."""
        return tuple(_EVENT_TIME.unpack_from(row, group.event_time.start)[0] for group in self.groups)

    def merge(self, held: bytes, new: bytes) -> bytes:
        """Of each group the newer one; at equal event times, that of `new`. Raises ForeignRow for rows of another schema."""
        rows = self.unpack(held).values, self.unpack(new).values
        times = list(zip(self.event_times(held), self.event_times(new), strict=True))
        values: list[Value] = list(rows[1])
        for group, (before, after) in zip(self.groups, times, strict=True):
            if before > after:
                for position in group.positions:
                    values[position] = rows[0][position]
        return self.pack_fitting(values, [max(pair) for pair in times])

    def why_foreign(self, row: bytes) -> str:
        """Why these bytes are no row of this schema; empty when they are one."""
        if isinstance(row, UnreadableRow):
            return row.why
        if len(row) < HEADER_BYTES or not row.startswith(MAGIC):
            return f"{len(row)} bytes that are no feature row"
        _, version, flags, found = _MARK.unpack_from(row)
        if version != self.version or flags != FLAGS:
            expected = f"expected version {self.version} with {FLAGS:#04x}"
            return f"format version {version} with flags {flags:#04x}, {expected}"
        if found != self.fingerprint:
            return f"written under another schema: fingerprint {found:08x}, expected {self.fingerprint:08x}"
        if (end := self.end_of(row)) != len(row):
            return f"{len(row)} bytes, expected {end}: cut off or damaged"
        return ""

    def end_of(self, row: bytes) -> int:
        """How long a row that begins like this one must be; -1 if its texts do not stand in order and without gaps."""
        end = self.width
        if len(row) < end:
            return end
        for position in self.texts:
            start, length = struct.unpack_from("<II", row, self.slices[position].start)
            if start != end:
                return -1
            end += length
        return end


def _laid_out(schema: Sequence[Column]) -> tuple[tuple[Group, ...], tuple[slice, ...], int]:
    """The groups in the order of their first feature, where each column stands, and the width of all."""
    at = MARK_BYTES
    groups = []
    slices = [slice(0)] * len(schema)
    for name in dict.fromkeys(column.group for column in schema) or [""]:
        positions = tuple(position for position, column in enumerate(schema) if column.group == name)
        at = _aligned(at)
        bitmap_at = at + _EVENT_TIME.size
        bitmap = slice(bitmap_at, bitmap_at + (len(positions) + 7) // 8)
        groups.append(Group(name, slice(at, bitmap_at), bitmap, positions))
        at = _aligned(bitmap.stop)
        for position in positions:
            start, at = at, at + struct.calcsize("<" + schema[position].code)
            slices[position] = slice(start, at)
    return tuple(groups), tuple(slices), at


def _codes(schema: Sequence[Column], groups: Sequence[Group], slices: Sequence[slice]) -> str:
    codes = f"{MARK_BYTES}s"
    at = MARK_BYTES
    for group in groups:
        bitmap_bytes = group.bitmap.stop - group.bitmap.start
        values_at = _aligned(group.bitmap.stop)
        codes += f"{group.event_time.start - at}xq{bitmap_bytes}s{values_at - group.bitmap.stop}x"
        codes += "".join(schema[position].code for position in group.positions)
        at = max([values_at, *(slices[position].stop for position in group.positions)])
    return codes


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT


def _value(fields: Sequence[Any], column: Column, row: bytes) -> Value:
    if column.datatype == TEXT:
        start, length = fields
        return row[start : start + length]
    for size in reversed(column.shape[1:]):
        fields = [tuple(fields[at : at + size]) for at in range(0, len(fields), size)]
    value: Value = tuple(fields) if column.shape else fields[0]
    return value


def _type(datatype: str) -> type:
    return bool if datatype == "BOOL" else float if datatype.startswith("FP") else int
