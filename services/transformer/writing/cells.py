"""Columns of text, as CSV has them, to values: a whole column at a time, and cell by cell only where one does not fit."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.transformer.policy import micros
from services.transformer.row import INT64
from services.transformer.schema import TEXT, Column, Value, unfit
from services.transformer.writing.packing import ColumnData, stored_dtype

__all__ = ["Parsed", "event_time_of", "fault_of_time", "ids_of_cells", "parse_cells", "parse_times"]

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

Faults = dict[int, str]


class Parsed(NamedTuple):
    """A column of N rows, and what is wrong by the number of the row; what stands in such a row means nothing."""

    data: ColumnData
    faults: Faults


def parse_cells(cells: Sequence[str], column: Column) -> Parsed:
    """The values of a feature. An empty cell is null; a vector is a JSON array."""
    nulls = None
    if "" in cells:
        nulls = np.fromiter(map(operator.not_, cells), np.bool_, len(cells))
        if column.datatype != TEXT:
            cells = [cell or "0" for cell in cells] if not column.shape else cells
    if not column.shape:
        try:
            return Parsed(ColumnData(_WHOLE[_kind(column)](cells, column), nulls), {})
        except (ValueError, KeyError, OverflowError):
            pass
    return _one_by_one(cells, column, nulls)


def ids_of_cells(cells: Sequence[str], *, is_int: bool) -> tuple[list[bytes | str | int], Faults]:
    """The ids of a column; of type `int` they stand in one spelling."""
    if not is_int:
        return list(cells), {}
    ids: list[bytes | str | int] = []
    faults = {}
    for at, cell in enumerate(cells):
        try:
            ids.append(_whole_number(cell))
        except ValueError as error:
            ids.append(0)
            faults[at] = str(error)
    return ids, faults


def parse_times(cells: Sequence[str], latest_us: int) -> tuple[NDArray[np.int64], Faults]:
    """Event times in microseconds: RFC 3339 with an offset, or seconds since 1970."""
    times = np.zeros(len(cells), np.int64)
    faults = {}
    for at, cell in enumerate(cells):
        try:
            time_us = event_time_of(cell)
            if why := fault_of_time(time_us, repr(cell), latest_us):
                raise ValueError(why)
            times[at] = time_us
        except ValueError as error:
            faults[at] = str(error)
    return times, faults


def event_time_of(cell: str) -> int:
    """One event time in microseconds, of any size. Raises ValueError."""
    try:
        return micros(float(cell))
    except (ValueError, OverflowError):
        pass
    try:
        time_of_day = datetime.fromisoformat(cell)
    except ValueError:
        raise ValueError(f"event_time: expected RFC 3339 or seconds since 1970, got {cell!r}") from None
    if time_of_day.tzinfo is None:
        raise ValueError(f"event_time: expected an offset such as Z, got {cell!r}")
    return micros(time_of_day.timestamp())


def fault_of_time(time_us: int, shown: str, latest_us: int) -> str:
    """Why a time can't be that of a row; empty when it can."""
    if time_us > latest_us:
        return f"event_time: {shown} is more than a day ahead of now; expected RFC 3339 or seconds since 1970"
    if time_us not in INT64:
        return f"event_time: {shown} is too long ago: 64 bits can't hold its microseconds"
    return ""


def _kind(column: Column) -> str:
    return "text" if column.datatype == TEXT else stored_dtype(column.datatype).kind


def _floats(cells: Sequence[str], column: Column) -> Any:
    if "_" in "".join(cells):  # Python's own liberty
        raise ValueError
    wide = np.fromiter(map(float, cells), np.float64, len(cells))
    with np.errstate(over="ignore"):
        values = wide.astype(stored_dtype(column.datatype))
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite) and any(_has_digits(cells[at]) for at in infinite.tolist()):
        raise OverflowError  # past the datatype's range, or past that of all floats
    return values


def _integers(cells: Sequence[str], column: Column) -> Any:
    numbers = list(map(int, cells))
    if list(map(str, numbers)) != list(cells):  # 007, +7 and 7 would be three texts for one number
        raise ValueError
    return np.array(numbers, stored_dtype(column.datatype))  # OverflowError for what it can't hold


def _booleans(cells: Sequence[str], column: Column) -> Any:
    return np.fromiter(map(_BOOLEANS.__getitem__, map(str.lower, cells)), np.bool_, len(cells))


def _texts(cells: Sequence[str], column: Column) -> Any:
    texts = [cell.encode() for cell in cells]
    if any(unfit(text, TEXT) for text in texts if len(text) > 1024):
        raise ValueError
    return texts


_WHOLE: dict[str, Callable[[Sequence[str], Column], Any]] = {
    "f": _floats,
    "i": _integers,
    "u": _integers,
    "b": _booleans,
    "text": _texts,
}


def _one_by_one(cells: Sequence[str], column: Column, nulls: Any) -> Parsed:
    """For a column with a cell that does not fit, or with blanks round what does."""
    nothing: Any = b"" if column.datatype == TEXT else np.zeros(column.shape, stored_dtype(column.datatype))
    values = [nothing] * len(cells)
    mask = np.zeros(len(cells), np.bool_) if nulls is None else nulls.copy()
    faults = {}
    for at, cell in enumerate(cells):
        if mask[at]:
            continue
        try:
            value = _value(cell, column)
        except ValueError as error:
            faults[at] = f'feature "{column.name}": {error}'
            continue
        if value is None:
            mask[at] = True
        elif problem := unfit(value, column.datatype, column.shape):
            faults[at] = f'feature "{column.name}": {problem}'
        else:
            values[at] = value.encode() if isinstance(value, str) else value
    if column.datatype == TEXT:
        return Parsed(ColumnData(values, mask), faults)
    return Parsed(ColumnData(np.array(values, stored_dtype(column.datatype)), mask), faults)


def _value(cell: str, column: Column) -> Value:
    text = cell.strip()
    if column.datatype == TEXT:
        return cell
    if not text:
        return None
    try:
        if column.shape:
            return json.loads(text, parse_float=_finite)  # type: ignore[no-any-return]  # `unfit` looks at it
        if column.datatype == "BOOL":
            return _BOOLEANS[text.lower()]
        if _kind(column) == "f":
            if "_" in text:
                raise ValueError(text)
            return _finite(text)
        return _whole_number(text)
    except (ValueError, KeyError, RecursionError):
        shape = f" {list(column.shape)} as a JSON array" if column.shape else ""
        shown = repr(cell) if len(cell) <= 80 else repr(cell[:79] + "…")
        raise ValueError(f"expected {column.datatype}{shape}, got {shown}") from None


def _finite(text: str) -> float:
    """A float that is infinite only where the text spells it: 1e400 is out of range, as 1e39 is for FP32."""
    value = float(text)
    if math.isinf(value) and _has_digits(text):
        raise ValueError(text)
    return value


def _has_digits(text: str) -> bool:
    """Whether a number has digits, and so is finite, whatever a float can hold."""
    return any(map(str.isdigit, text))


def _whole_number(text: str) -> int:
    number = int(text)
    if str(number) != text:  # 007, +7 and 7 would be three texts for one key
        raise ValueError(f"expected a whole number as 7 or -7, got {text!r}")
    return number
