"""The packed row: one entity's features of one view, as the bytes of one Redis string. docs/feature-format.md is the contract.

    header (16 bytes) │ null bitmap, padded to 8 bytes │ columns, fixed width, little-endian, in the order of the view

All rows of a view have the same width, so N of them laid end to end are an (N, width) array of bytes, and a run of columns of one
datatype is a slice of it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["DATATYPES", "EVENT_TIME", "HEADER_BYTES", "MARK_BYTES", "ForeignRow", "Row", "RowFormat", "Value"]

MAGIC = b"FR"
FORMAT_VERSION = 1
FLAGS = 0

_MARK = struct.Struct("<2sBBI")  # magic, format version, flags, schema fingerprint: equal in all rows of a schema
_EVENT_TIME = struct.Struct("<q")  # microseconds since 1970-01-01T00:00:00Z
MARK_BYTES = _MARK.size
HEADER_BYTES = _MARK.size + _EVENT_TIME.size
EVENT_TIME = slice(MARK_BYTES, HEADER_BYTES)
BITMAP_ALIGNMENT = 8  # keeps columns of 8 bytes aligned in memory

_CODES = {"FP32": "f", "FP64": "d", "INT64": "q", "BOOL": "?"}
DATATYPES = tuple(_CODES)

Value = float | int | bool | None
INT64 = range(-(2**63), 2**63)


class ForeignRow(ValueError):
    """Bytes that are no row of this schema; the text says why."""


class Row(NamedTuple):
    """A row that was unpacked. A feature that is None is null: known to have no value."""

    event_time_us: int
    values: tuple[Value, ...]


class RowFormat:
    """How the rows of one schema are laid out. `columns` are (name, datatype) pairs in order.

    The fingerprint is made of exactly these: another name, datatype or order is another schema, and its rows are foreign here.
    """

    def __init__(self, columns: Sequence[tuple[str, str]]) -> None:
        self.columns = tuple(columns)
        self.fingerprint = fingerprint(self.columns)
        self.mark = _MARK.pack(MAGIC, FORMAT_VERSION, FLAGS, self.fingerprint)
        self.bitmap_bytes = (len(self.columns) + 7) // 8
        padded = -(-self.bitmap_bytes // BITMAP_ALIGNMENT) * BITMAP_ALIGNMENT
        self._padding = bytes(padded - self.bitmap_bytes)
        self.bitmap = slice(HEADER_BYTES, HEADER_BYTES + self.bitmap_bytes)
        self._values = struct.Struct("<" + "".join(_CODES[datatype] for _, datatype in self.columns))
        self._values_at = HEADER_BYTES + padded
        self.width = self._values_at + self._values.size
        at = self._values_at
        offsets = []
        for _, datatype in self.columns:
            offsets.append(at)
            at += struct.calcsize("<" + _CODES[datatype])
        self.offsets = (*offsets, at)

    def pack(self, values: Sequence[Value], event_time_us: int) -> bytes:
        """A row. Raises ValueError naming the feature whose value its datatype can't hold; None is null."""
        if len(values) != len(self.columns):
            raise ValueError(f"expected {len(self.columns)} values, got {len(values)}")
        nulls = 0
        filled: list[float | int | bool] = []
        for position, value in enumerate(values):
            if value is None:
                nulls |= 1 << position
                filled.append(0)
            else:
                filled.append(self._checked(position, value))
        header = self.mark + _EVENT_TIME.pack(event_time_us)
        return header + nulls.to_bytes(self.bitmap_bytes, "little") + self._padding + self._values.pack(*filled)

    def unpack(self, row: bytes) -> Row:
        """What was packed. Raises ForeignRow for anything else."""
        if reason := self.why_foreign(row):
            raise ForeignRow(reason)
        nulls = int.from_bytes(row[self.bitmap], "little")
        values = self._values.unpack_from(row, self._values_at)
        return Row(
            _EVENT_TIME.unpack(row[EVENT_TIME])[0],
            tuple(None if nulls >> position & 1 else value for position, value in enumerate(values)),
        )

    def why_foreign(self, row: bytes) -> str:
        """Why these bytes are no row of this schema; empty when they are one."""
        if len(row) < HEADER_BYTES or not row.startswith(MAGIC):
            return f"{len(row)} bytes that are no feature row"
        _, version, flags, found = _MARK.unpack_from(row)
        if version != FORMAT_VERSION or flags != FLAGS:
            return (
                f"format version {version} with flags {flags:#04x}, expected version {FORMAT_VERSION} with {FLAGS:#04x}"
            )
        if found != self.fingerprint:
            return f"written under another schema: fingerprint {found:08x}, expected {self.fingerprint:08x}"
        if len(row) != self.width:
            return f"{len(row)} bytes, expected {self.width}: cut off or damaged"
        return ""

    def _checked(self, position: int, value: float | int | bool) -> float | int | bool:
        name, datatype = self.columns[position]
        if (problem := unfit(value, datatype)) is not None:
            raise ValueError(f'feature "{name}": {problem}')
        return value


def fingerprint(columns: Sequence[tuple[str, str]]) -> int:
    """The first four bytes, read little-endian, of SHA-256 over a line `<name> <datatype>\\n` for each column in order."""
    text = "".join(f"{name} {datatype}\n" for name, datatype in columns)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def unfit(value: object, datatype: str) -> str | None:
    """What is wrong with a value for a datatype; None when it fits. Floats take integers, nothing else is converted."""
    if datatype == "BOOL":
        return None if isinstance(value, bool) else f"expected BOOL, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, int if datatype == "INT64" else (int, float)):
        return f"expected {datatype}, got {value!r}"
    if datatype == "INT64":
        return None if value in INT64 else f"expected INT64, got {value!r}, which 64 bits can't hold"
    try:
        struct.pack("<" + _CODES[datatype], value)
    except (OverflowError, struct.error):
        return f"expected {datatype}, got {value!r}, which is out of its range"
    return None
