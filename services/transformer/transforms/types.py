"""What is known of a column before there is a row, and which datatype may become which."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from infermesh.tensors import DATATYPES, Array

__all__ = ["FLOATS", "INTEGERS", "NUMBERS", "ColumnType", "Datatype", "ValueRefused", "can_become", "converted"]

Datatype = Literal[
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64", "BYTES"
]
INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
FLOATS = ("FP16", "FP32", "FP64")
NUMBERS = ("BOOL", *INTEGERS, *FLOATS)

INTEGER_BOUNDS = {
    name: (-(1 << bits - 1), (1 << bits - 1) - 1) if name.startswith("I") else (0, (1 << bits) - 1)
    for name in INTEGERS
    for bits in [8 * DATATYPES[name].size]
}
FLOATS_OF = {  # a float that becomes a narrower one is rounded; only FP64 is usual enough for that to go without saying
    "BOOL": ("FP32", "FP64"),
    "FP16": ("FP16", "FP32", "FP64"),
    "FP32": ("FP32", "FP64"),
    "FP64": ("FP32", "FP64"),
}


class ColumnType(NamedTuple):
    """The datatype of a source, and into how many columns it goes."""

    datatype: str
    width: int = 1


class ValueRefused(Exception):
    """A value that a transform has no answer for; the text says which and why."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(f"row {row}: {what}")


def can_become(datatype: str, other: str) -> bool:
    """Whether values of one datatype may be written as another without a declared cast."""
    if datatype == other:
        return True
    if datatype == "BYTES" or other == "BYTES":
        return False
    if other in FLOATS:
        return other in FLOATS_OF.get(datatype, ("FP32", "FP64"))
    if datatype == "BOOL":
        return other in INTEGERS
    if datatype in INTEGERS and other in INTEGERS:
        return np.can_cast(DATATYPES[datatype].dtype, DATATYPES[other].dtype, "safe")
    return False


def converted(array: Array, datatype: str) -> Array:
    """Numbers as another datatype; floats are cut towards zero. Raises ValueRefused for what an integer datatype can't hold."""
    dtype = DATATYPES[datatype].dtype
    if datatype == "BOOL":
        return np.not_equal(array, 0)
    if dtype.kind not in "iu" or array.dtype.kind == "b":
        with np.errstate(over="ignore"):  # FP64 past FP32's range is infinite, as IEEE 754 has it
            return array.astype(dtype, copy=False)
    low, high = INTEGER_BOUNDS[datatype]
    if array.dtype.kind == "f":
        cut = np.trunc(array.astype(np.float64))
        fits = (cut >= float(low)) & (cut < float(high + 1))  # of NaN both are false
    else:
        cut = array
        fits = np.greater_equal(array, low) & np.less_equal(array, high)
    if not fits.all():
        row = int(np.argmin(fits.reshape(len(fits), -1).all(axis=1)))
        value = array[row].ravel()[int(np.argmin(fits[row].ravel()))]
        raise ValueRefused(row, f"{value} can't be {datatype}")
    return cut.astype(dtype)
