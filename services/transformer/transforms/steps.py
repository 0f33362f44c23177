"""Transforms on numpy columns, (N, k) in and (N, k') out; each is bound once to the type of the column that it is about.

Numbers are computed in FP64, and rounded once, where they become the model's input. `benchmarks/join_cost.py` has the costs.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import quoted
from infermesh.tensors import Array
from services.transformer.transforms.declared import HourOfDay, OneHot, Scale, Transform
from services.transformer.transforms.hours import hours, offsets_of
from services.transformer.transforms.types import INTEGERS, NUMBERS, ColumnType, ValueRefused, converted

__all__ = ["Step", "bucket_of", "ratio", "step_of"]

TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000}
MAX_TIME = float(2**62)


class Step(NamedTuple):
    """A transform of one column, or of several at once, and what they are afterwards."""

    becomes: ColumnType
    apply: Callable[[Array], Array]
    value_ns: int = 5
    """What each value of the column costs, about, so that a request may be refused before the work is done."""


def step_of(transform: Transform, of: ColumnType) -> Step:
    """The step for a column of this type. Raises ValueError saying why there is none."""
    name = transform.name
    if transform.log1p is not None:
        _expect(name, of, NUMBERS)
        return Step(ColumnType("FP64", of.width), _log1p)
    if transform.clip is not None:
        _expect(name, of, NUMBERS)
        return Step(ColumnType("FP64", of.width), _clip(*transform.clip))
    if transform.scale is not None:
        _expect(name, of, NUMBERS)
        return Step(ColumnType("FP64", of.width), _scale(transform.scale, of.width))
    if transform.bucketise is not None:
        _expect(name, of, NUMBERS)
        return Step(ColumnType("INT64", of.width), _bucketise(transform.bucketise), 100)
    if transform.one_hot is not None:
        return _one_hot(transform.one_hot, of)
    if transform.hash is not None:
        _expect(name, of, ("BYTES", *INTEGERS))
        return Step(ColumnType("INT64", of.width), _hash(transform.hash), 1000)
    if transform.hour_of_day is not None:
        _expect(name, of, ("FP64", *INTEGERS))  # the seconds of our time are too many for FP32
        return Step(ColumnType("INT64", of.width), _hour_of_day(transform.hour_of_day), 50)
    assert transform.cast is not None
    return _cast(transform.cast, of)


def ratio(above: Array, below: Array, zero: float) -> Array:
    """above / below in FP64; `zero` where below is 0."""
    numerator, denominator = above.astype(np.float64), below.astype(np.float64)
    with np.errstate(all="ignore"):  # what IEEE 754 says is the answer
        result: Array = np.divide(numerator, denominator)
    return np.where(denominator == 0, zero, result)


def bucket_of(value: bytes, buckets: int) -> int:
    """The bucket of one value: docs/features.md names the algorithm, so that training code may do the same."""
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "little") % buckets


def _expect(name: str, of: ColumnType, datatypes: tuple[str, ...]) -> None:
    if of.datatype not in datatypes:
        raise ValueError(f"{name}: a {of.datatype} column can't be taken; expected {', '.join(datatypes)}")


def _log1p(column: Array) -> Array:
    with np.errstate(all="ignore"):
        result: Array = np.log1p(column.astype(np.float64))
    return result


def _clip(low: float | None, high: float | None) -> Callable[[Array], Array]:
    return lambda column: np.clip(column.astype(np.float64), low, high)


def _scale(scale: Scale, width: int) -> Callable[[Array], Array]:
    shift, divisor = (np.array(each, np.float64) for each in scale.shift_and_scale())
    for each in (shift, divisor):
        if len(each) not in (1, width):
            raise ValueError(f"scale: expected one number, or one for each of {width} columns, got {len(each)}")

    def apply(column: Array) -> Array:
        with np.errstate(all="ignore"):
            result: Array = (column.astype(np.float64) - shift) / divisor
        return result

    return apply


def _bucketise(bounds: list[float]) -> Callable[[Array], Array]:
    edges = np.array(bounds, np.float64)
    return lambda column: np.searchsorted(edges, column.astype(np.float64), side="right").astype(np.int64)


def _one_hot(declared: OneHot, of: ColumnType) -> Step:
    texts = isinstance(declared.values[0], str)
    _expect("one_hot", of, ("BYTES",) if texts else INTEGERS)
    if of.width != 1:
        raise ValueError(f"one_hot: expected one column, got {of.width}")
    known = len(declared.values)
    index = {str(value).encode() if texts else value: at for at, value in enumerate(declared.values)}
    more = declared.unknown == "column"

    def apply(column: Array) -> Array:
        values = column.ravel().tolist()
        codes = np.fromiter((index.get(value, known) for value in values), np.intp, len(values))
        if declared.unknown == "fail" and (codes == known).any():
            row = int((codes == known).argmax())
            shown = quoted(values[row]) if isinstance(values[row], bytes) else values[row]
            raise ValueRefused(row, f"{shown} is none of the values of one_hot")
        # Written where it is 1, and not compared with each of the values, of which there may be thousands.
        matrix = np.zeros((len(codes), known + 1), np.bool_)
        matrix[np.arange(len(codes)), codes] = True
        return matrix if more else matrix[:, :known]

    return Step(ColumnType("BOOL", known + more), apply, 100 + known // 16)


def _hash(buckets: int) -> Callable[[Array], Array]:
    def apply(column: Array) -> Array:
        if column.dtype.kind == "O":
            values = column.ravel().tolist()
            alone = list(dict.fromkeys(values))
            place = dict(zip(alone, range(len(alone)), strict=True))
            places = np.fromiter(map(place.__getitem__, values), np.intp, len(values))
        else:
            numbers, places = np.unique(column, return_inverse=True)
            alone = [b"%d" % number for number in numbers.tolist()]
        found: Array = _buckets(alone, buckets)[places.reshape(column.shape)]
        return found

    return apply


def _buckets(values: list[bytes], buckets: int) -> NDArray[np.int64]:
    """`bucket_of` each of them."""
    digests = b"".join([blake2b(value, digest_size=8).digest() for value in values])
    return (np.frombuffer(digests, "<u8") % np.uint64(buckets)).astype(np.int64)


def _hour_of_day(declared: HourOfDay) -> Callable[[Array], Array]:
    offsets, ticks = offsets_of(declared.timezone), TICKS[declared.unit]

    def apply(column: Array) -> Array:
        if column.dtype.kind == "f":
            good = np.abs(column) < MAX_TIME  # of NaN it is false
            if not good.all():
                row = int(np.argmin(good.all(axis=1)))
                raise ValueRefused(row, f"{column[row].ravel()[0]} is no point in time")
            column = np.floor(column)
        elif column.dtype == np.uint64:
            column = np.minimum(column, np.uint64(2**62))
        return hours(column.astype(np.int64) // ticks, offsets)

    return apply


def _cast(datatype: str, of: ColumnType) -> Step:
    if datatype not in NUMBERS or of.datatype not in NUMBERS:
        raise ValueError(f"cast: {of.datatype} can't become {datatype}")
    return Step(ColumnType(datatype, of.width), lambda column: converted(column, datatype))
