"""Features as the text fields of a plain hash, as people and other programs write them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from infermesh.errors import quoted
from infermesh.tensors import DATATYPES, Array
from services.transformer.row import INT64
from services.transformer.schema import TEXT, Column, Value, unfit

__all__ = ["TextCodec"]

UNITS_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
_BOOLEANS = {b"true": True, b"1": True, b"false": False, b"0": False}


class TextCodec:
    """Numbers as decimal text, BOOL as true, false, 1 or 0, vectors as JSON, BYTES as they are. An empty field is null.

    An event time is a number since 1970 in `unit`, or ISO 8601; without an offset it is UTC.
    """

    def __init__(self, unit: str) -> None:
        self._per_unit = UNITS_US[unit]

    def is_null(self, raw: bytes) -> bool:
        return not raw

    def value(self, raw: bytes, column: Column) -> Value:
        value: Value
        try:
            if column.shape:
                value = json.loads(raw, parse_float=_finite)
            elif column.datatype == TEXT:
                value = raw
            else:
                value = _scalar(raw, column.datatype)
            problem = unfit(value, column.datatype, column.shape)
        except (ValueError, KeyError, RecursionError):
            problem = f"expected {column.datatype}{list(column.shape) if column.shape else ''}, got {quoted(raw)}"
        if problem is not None:
            raise ValueError(problem)
        return value

    def values(self, raws: Sequence[bytes | None], datatype: str) -> tuple[Array, Array | None]:
        nulls = None
        if not all(raws):
            nulls = np.fromiter((not raw for raw in raws), np.bool_, len(raws))
        given = [raw or b"0" for raw in raws]
        dtype = DATATYPES[datatype].dtype
        if dtype.kind == "b":
            return np.array([_BOOLEANS[raw.lower()] for raw in given]), nulls
        if b"_" in b"".join(given):
            raise ValueError("a number with _ is Python's own liberty")
        if dtype.kind in "iu":
            return np.array(list(map(int, given)), dtype), nulls  # OverflowError past the datatype's range
        wide = np.array(list(map(float, given)))
        if np.isinf(wide).any() and any(_has_digits(given[at]) for at in np.flatnonzero(np.isinf(wide)).tolist()):
            raise OverflowError(f"out of the range of {datatype}")
        with np.errstate(over="ignore"):
            values = wide.astype(dtype)
        if np.isinf(values).any() and not np.array_equal(np.isinf(values), np.isinf(wide)):
            raise OverflowError(f"out of the range of {datatype}")
        return values, nulls

    def event_time_us(self, raw: bytes) -> int:
        try:
            time_us = self._event_time_us(raw.decode())
        except (ValueError, OverflowError):
            raise ValueError(f"expected a number since 1970 or ISO 8601, got {quoted(raw)}") from None
        if time_us not in INT64:
            raise ValueError(f"{quoted(raw)} is out of range: 64 bits can't hold its microseconds")
        return time_us

    def _event_time_us(self, text: str) -> int:
        if "_" in text or not text.isascii():
            raise ValueError(text)  # Python alone takes it for a number
        try:
            return int(text) * self._per_unit
        except ValueError:
            pass
        try:
            return round(float(text) * self._per_unit)
        except ValueError:
            pass
        time = datetime.fromisoformat(text)
        since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _scalar(raw: bytes, datatype: str) -> float | int | bool:
    if datatype == "BOOL":
        return _BOOLEANS[raw.lower()]
    if b"_" in raw:
        raise ValueError(raw)
    return _finite(raw) if datatype.startswith("FP") else int(raw)


def _finite(text: bytes | str) -> float:
    """A float that is infinite only where the text spells it: 1e400 is out of range."""
    value = float(text)
    if math.isinf(value) and _has_digits(text):
        raise ValueError(text)
    return value


def _has_digits(text: bytes | str) -> bool:
    return any(map(str.isdigit, text if isinstance(text, str) else text.decode("latin-1")))
