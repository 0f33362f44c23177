"""A background: rows that stand for "feature unknown"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import FailedPrecondition, quoted
from infermesh.tensors import DATATYPES, Array
from services.explainer.signature import Signature

__all__ = ["ZEROS", "Background", "zeros"]

ZEROS = "zeros"


@dataclass(frozen=True)
class Background:
    """Rows by input, and their weights, which add up to 1."""

    name: str
    arrays: Mapping[str, Array]
    datatypes: Mapping[str, str]
    weights: NDArray[np.float64]
    source: str = ""  # for people: where the rows come from
    summary: str = "none"  # none | kmeans | stratified: how they were chosen among those of the source
    casts: bool = (
        False  # whether numbers may become the model's datatype: tables don't have all datatypes, and no shapes
    )

    def __len__(self) -> int:
        return len(self.weights)

    def taken(self, rows: NDArray[np.intp], weights: NDArray[np.float64]) -> Background:
        """The given rows of it, by index, with weights that add up to 1."""
        return replace(self, arrays={name: array[rows] for name, array in self.arrays.items()}, weights=weights)

    def thinned(self, rows: int) -> Background:
        """At most that many rows, evenly through the set, each standing for its share: systematic sampling by weight (Madow
        1949), so every weighted mean is kept in expectation. No chance is involved: the same set gives the same rows."""
        if len(self) <= rows:
            return self
        chosen = np.searchsorted(np.cumsum(self.weights), (np.arange(rows) + 0.5) / rows)
        index, count = np.unique(np.minimum(chosen, len(self) - 1), return_counts=True)
        return self.taken(index, count / rows)

    def fitted(self, signature: Signature, row_shapes: Mapping[str, tuple[int, ...]]) -> Background:
        """The same with the datatypes and shapes of the model's inputs, where it may be cast and its values allow it."""
        if not self.casts:
            return self
        arrays, datatypes = dict(self.arrays), dict(self.datatypes)
        for spec in signature.inputs:
            array = arrays.get(spec.name)
            if array is None or array.size != len(self) * prod(row_shapes[spec.name]):
                continue  # which `check` tells
            fit = _cast(array.reshape(len(self), *row_shapes[spec.name]), datatypes[spec.name], spec.datatype)
            if fit is not None:
                arrays[spec.name], datatypes[spec.name] = fit, spec.datatype
        return replace(self, arrays=arrays, datatypes=datatypes)

    def check(self, signature: Signature, row_shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise FailedPrecondition unless its rows are rows of the model, as wide as those of the request."""
        for spec in signature.inputs:
            array = self.arrays.get(spec.name)
            if array is None or self.datatypes[spec.name] != spec.datatype or array.shape[1:] != row_shapes[spec.name]:
                has = "nothing" if array is None else f"{self.datatypes[spec.name]} {[-1, *array.shape[1:]]}"
                raise FailedPrecondition(
                    f"model {quoted(signature.model)}: background {quoted(self.name)}: expected {quoted(spec.name)} as "
                    f"{spec.datatype} {[-1, *row_shapes[spec.name]]}, it has {has}",
                    reason="BACKGROUND_MISMATCH",
                )
        surplus = [name for name in self.arrays if name not in {spec.name for spec in signature.inputs}]
        if surplus:
            raise FailedPrecondition(
                f"model {quoted(signature.model)}: background {quoted(self.name)}: it has {quoted(surplus[0])}, "
                "the model has not",
                reason="BACKGROUND_MISMATCH",
            )


def zeros(signature: Signature, row_shapes: Mapping[str, tuple[int, ...]]) -> Background:
    """One row of zeros, empty strings and falses."""
    arrays: dict[str, Array] = {}
    for spec in signature.inputs:
        shape = (1, *row_shapes[spec.name])
        is_text = spec.datatype == "BYTES"
        arrays[spec.name] = (
            np.full(shape, b"", np.object_) if is_text else np.zeros(shape, DATATYPES[spec.datatype].dtype)
        )
    datatypes = {spec.name: spec.datatype for spec in signature.inputs}
    return Background(ZEROS, arrays, datatypes, np.ones(1), source="built in")


def _cast(array: Array, given: str, wanted: str) -> Array | None:
    """None where a value would be another one; floats may be rounded to the nearest."""
    if given == wanted:
        return array
    if "BYTES" in (given, wanted) or "BF16" in (given, wanted):
        return None
    dtype = DATATYPES[wanted].dtype
    with np.errstate(all="ignore"):
        cast: Array = array.astype(dtype)
    if dtype.kind == "f":
        return cast
    return cast if np.array_equal(cast.astype(array.dtype), array) else None
