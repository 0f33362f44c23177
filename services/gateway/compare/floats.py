"""How far two arrays of floating numbers are apart."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Distance", "distance", "largest_columns", "overlap"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distance:
    """Largest differences over the elements that are finite in both answers, and how many are not equal.

    `max_rel` is |other − primary| / max(|primary|, |other|), from 0 to 2, of elements that are further apart than the absolute
    tolerance: next to zero it says nothing. `outside` has the elements outside tolerance and the `nonfinite` ones: NaN or
    infinite in one answer and not the same in the other. NaN beside NaN, and an infinity beside the same one, are equal.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    outside: int = 0
    nonfinite: int = 0
    at: int = 0  # flat index of the element that is furthest apart, of those outside if there are any


EQUAL = Distance()


def distance(primary: NDArray[Any], other: NDArray[Any], rtol: float, atol: float) -> Distance:
    """Compare two arrays of one shape; an element is inside tolerance as in `numpy.isclose(other, primary)`."""
    if primary.tobytes() == other.tobytes():
        return EQUAL
    with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN is one already as it is cast
        a, b = primary.ravel().astype(np.float64), other.ravel().astype(np.float64)
        apart = np.abs(b - a)
        size = np.abs(a)
        outside = ~(apart <= atol + rtol * size)
        if np.isfinite(apart).all():
            nonfinite = 0
        else:
            finite = np.isfinite(a) & np.isfinite(b)
            odd = ~finite & ~((a == b) | (np.isnan(a) & np.isnan(b)))
            nonfinite = int(odd.sum())
            outside = odd | (finite & outside)
            apart = np.where(finite, np.minimum(apart, sys.float_info.max), 0.0)
            if nonfinite:
                at = int(odd.argmax())
        max_abs = float(apart.max())
        far = apart > atol
        relative = np.divide(apart, np.maximum(size, np.abs(b)), out=np.zeros_like(apart), where=far & (apart > 0))
    if not nonfinite:
        at = int((np.where(outside, relative, -1.0) if outside.any() else apart).argmax())
    return Distance(max_abs, float(relative.max()), int(outside.sum()), nonfinite, at)


def largest_columns(primary: NDArray[Any], other: NDArray[Any]) -> int:
    """Rows of [rows, columns] whose largest column is another one; rows with NaN are left out, the first of equals counts."""
    different = primary.argmax(1) != other.argmax(1)
    if not different.any():
        return 0
    return int((different & ~np.isnan(primary).any(1) & ~np.isnan(other).any(1)).sum())


def overlap(primary: NDArray[Any], other: NDArray[Any], k: int) -> float:
    """The share that the k largest columns have in common, as a mean over rows; there must be a row and more than k columns."""
    masks = []
    for array in (primary, other):
        mask = np.zeros(array.shape, np.bool_)
        np.put_along_axis(mask, np.argpartition(array, -k, axis=1)[:, -k:], True, axis=1)
        masks.append(mask)
    return float((masks[0] & masks[1]).sum() / (len(primary) * k))
