"""Whether an array has a NaN in it."""

from __future__ import annotations

import numpy as np

from infermesh.tensors import Array

__all__ = ["has_nan"]

# 16-bit floats are compared as the integers of their bits without the sign: NaNs are those above infinity. numpy knows no
# bfloat16, and takes 2 ns for each half-precision number where this takes 0.1.
_MAGNITUDE = np.uint16(0x7FFF)
_INFINITY = {"FP16": 0x7C00, "BF16": 0x7F80}
_WIDE = ("FP32", "FP64")


def has_nan(datatype: str, array: Array) -> bool:
    """Whether an array of this datatype of the protocol has a NaN; false for those that know none.

    0.3 µs for a few numbers, 63 µs for a million of FP32, with the GIL left to others.
    """
    if datatype in _WIDE:
        # The first NaN counts as the greatest number. A sum of squares is as fast, but BLAS takes all cores for a large one.
        if not array.size:
            return False
        greatest = array.item(array.argmax())
        return bool(greatest != greatest)
    if datatype in _INFINITY and array.size:
        return bool((array.view(np.uint16) & _MAGNITUDE).max() > _INFINITY[datatype])
    return False
