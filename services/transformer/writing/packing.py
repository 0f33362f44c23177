"""Whole columns to packed rows: numpy lays the fixed part of all rows down at once, a column at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import DATATYPES, Array
from services.transformer.row import MARK_BYTES, RowFormat
from services.transformer.schema import TEXT

__all__ = ["ColumnData", "pack_rows", "stored_dtype"]

Mask = NDArray[np.bool_]


class ColumnData(NamedTuple):
    """One feature of N rows: values (N, *shape) of its datatype, or N bytes for texts; where `nulls` is set, no matter what."""

    values: Array | Sequence[bytes]
    nulls: Mask | None = None


def stored_dtype(datatype: str) -> np.dtype[np.generic]:
    """How numpy holds the values of a datatype that is no text; little-endian, as rows are."""
    return DATATYPES[datatype].dtype.newbyteorder("<")


def pack_rows(layout: RowFormat, columns: Sequence[ColumnData], times_us: NDArray[np.int64]) -> list[bytes]:
    """N rows, of columns in the order of the schema and event times (N, groups). Values must fit: nothing is checked here.

    Byte for byte what `RowFormat.pack` makes of each row.
    """
    count = len(times_us)
    if not count:  # every line of a block was refused
        return []
    table = np.zeros((count, layout.width), np.uint8)
    table[:, :MARK_BYTES] = np.frombuffer(layout.mark, np.uint8)
    texts = _texts(layout, columns)
    tail_at = np.full(count, layout.width, np.uint32)
    for at, group in enumerate(layout.groups):
        table[:, group.event_time] = _as_bytes(times_us[:, at].astype("<i8"), count)
        nulls = np.zeros((count, len(group.positions)), np.bool_)
        for bit, position in enumerate(group.positions):
            mask = columns[position].nulls
            if mask is not None:
                nulls[:, bit] = mask
            if position in texts:
                lengths = np.fromiter(map(len, texts[position]), np.uint32, count)
                place = np.stack([tail_at, lengths], axis=1).astype("<u4")
                table[:, layout.slices[position]] = _as_bytes(place, count)
                tail_at = tail_at + lengths
            else:
                table[:, layout.slices[position]] = _fixed(columns[position], layout.schema[position].datatype, count)
        if nulls.any():
            table[:, group.bitmap] = np.packbits(nulls, axis=1, bitorder="little")
    fixed, width = table.tobytes(), layout.width
    rows = [fixed[start : start + width] for start in range(0, count * width, width)]
    if not texts:
        return rows
    return list(map(b"".join, zip(rows, *(texts[position] for position in layout.texts), strict=True)))


def _texts(layout: RowFormat, columns: Sequence[ColumnData]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for position, column in enumerate(layout.schema):
        if column.datatype == TEXT:
            values, nulls = columns[position]
            texts = [bytes(each) for each in values]
            if nulls is not None:
                texts = [b"" if null else text for null, text in zip(nulls.tolist(), texts, strict=True)]
            found[position] = texts
    return found


def _fixed(column: ColumnData, datatype: str, count: int) -> Array:
    values = np.asarray(column.values).astype(stored_dtype(datatype), copy=False)
    if column.nulls is not None and column.nulls.any():
        values = values.copy()
        values[column.nulls] = 0
    return _as_bytes(values, count)


def _as_bytes(values: Array, count: int) -> Array:
    return np.ascontiguousarray(values).view(np.uint8).reshape(count, -1)
