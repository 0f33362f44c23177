"""Floats of all datatypes as FP64 and back; numpy has no bfloat16, so that a BF16 output is its bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import DATATYPES, Array

__all__ = ["FLOATS", "as_doubles", "from_doubles"]

FLOATS = ("FP16", "BF16", "FP32", "FP64")

Doubles = NDArray[np.float64]


def as_doubles(datatype: str, array: Array) -> Doubles:
    """Every value as it is."""
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def from_doubles(datatype: str, doubles: Doubles) -> Array:
    """The nearest values of a datatype; what is past its range is infinite."""
    with np.errstate(over="ignore", under="ignore"):
        if datatype != "BF16":
            return doubles.astype(DATATYPES[datatype].dtype)
        singles = doubles.astype(np.float32)
    bits = singles.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # to the nearest, to the even one of two
    return np.where(np.isnan(singles), np.uint16(0x7FC0), rounded)
