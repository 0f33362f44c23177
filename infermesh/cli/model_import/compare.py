"""Whether two answers to the same rows are the same, within a stated tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from infermesh.tensors import Array

__all__ = ["DEFAULT_TOLERANCE", "Comparison", "Tolerance", "compare"]


@dataclass(frozen=True)
class Tolerance:
    """A number may be off by `absolute` + `relative` × the original's size; a label never."""

    relative: float
    absolute: float

    def __str__(self) -> str:
        return f"{self.relative:g} × |original| + {self.absolute:g}"


DEFAULT_TOLERANCE = Tolerance(
    1e-5, 1e-6
)  # FP32 rounds at 6e-8; sums over hundreds of trees or terms lose some hundred times that


@dataclass(frozen=True)
class Comparison:
    """Of one output. `worst` is the row that is furthest outside the tolerance, or nearest to its bound."""

    output: str
    datatype: str
    shape: tuple[int, ...]
    max_absolute: float | None
    """None for labels, which are equal or not."""
    max_relative: float | None
    labels_differ: int | None
    """Rows with another label; None for numbers."""
    missing_differ: int
    """Elements that are NaN or infinite in one answer, and something else in the other."""
    outside: int
    """Rows outside the tolerance, for whatever reason."""
    worst: int

    @property
    def same(self) -> bool:
        return self.outside == 0


def compare(original: Mapping[str, Array], onnx: Mapping[str, Array], tolerance: Tolerance) -> list[Comparison]:
    """One comparison for each output, in the order of the ONNX model. Both have the same names and at least one row.

    Raises ValueError, with the shapes, for answers that can't be laid side by side.
    """
    return [
        _labels(name, original[name], values) if name == "label" else _numbers(name, original[name], values, tolerance)
        for name, values in onnx.items()
    ]


def _labels(name: str, original: Array, onnx: Array) -> Comparison:
    ours = onnx.reshape(-1)
    if ours.shape != original.shape:
        raise ValueError(f"output {name}: the original answers {list(original.shape)}, ONNX Runtime {list(onnx.shape)}")
    if original.dtype.kind in "biuf" and ours.dtype.kind in "biuf":
        differ = original.astype(np.float64) != ours.astype(np.float64)
    else:
        differ = original.astype(str) != ours.astype(str)
    count = int(differ.sum())
    return Comparison(name, _datatype(onnx), onnx.shape, None, None, count, 0, count, int(differ.argmax()))


def _numbers(name: str, original: Array, onnx: Array, tolerance: Tolerance) -> Comparison:
    theirs = original.astype(np.float64)
    if theirs.size != onnx.size or len(theirs) != len(onnx):
        raise ValueError(f"output {name}: the original answers {list(original.shape)}, ONNX Runtime {list(onnx.shape)}")
    theirs = theirs.reshape(len(onnx), -1)
    ours = onnx.astype(np.float64).reshape(len(onnx), -1)
    finite = np.isfinite(theirs) & np.isfinite(ours)
    missing = ~finite & ~((theirs == ours) | (np.isnan(theirs) & np.isnan(ours)))
    difference = np.abs(np.subtract(ours, theirs, where=finite, out=np.zeros_like(ours)))
    size = np.where(finite, np.abs(theirs), 0.0)
    relative = np.divide(difference, size, where=size > 0, out=np.zeros_like(size))
    share = difference / (
        tolerance.absolute + tolerance.relative * size + np.finfo(np.float64).tiny
    )  # of what is allowed
    share[missing] = np.inf
    by_row = share.max(axis=1)
    return Comparison(
        name,
        _datatype(onnx),
        onnx.shape,
        float(difference.max()),
        float(relative.max()),
        None,
        int(missing.sum()),
        int((by_row > 1).sum()),
        int(by_row.argmax()),
    )


def _datatype(array: Array) -> str:
    if array.dtype.kind in "OU":
        return "BYTES"
    prefix = {"f": "FP", "i": "INT", "u": "UINT", "b": "BOOL"}[array.dtype.kind]
    return prefix if prefix == "BOOL" else f"{prefix}{array.dtype.itemsize * 8}"
