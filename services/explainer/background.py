"""A background: rows that stand for "feature unknown"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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

    def __len__(self) -> int:
        return len(self.weights)

    def thinned(self, rows: int) -> Background:
        """At most that many rows, evenly through the set, each standing for its share: systematic sampling by weight (Madow
        1949), so every weighted mean is kept in expectation. No chance is involved: the same set gives the same rows."""
        if len(self) <= rows:
            return self
        chosen = np.searchsorted(np.cumsum(self.weights), (np.arange(rows) + 0.5) / rows)
        index, count = np.unique(np.minimum(chosen, len(self) - 1), return_counts=True)
        return Background(self.name, {n: a[index] for n, a in self.arrays.items()}, self.datatypes, count / rows)

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
    return Background(ZEROS, arrays, {spec.name: spec.datatype for spec in signature.inputs}, np.ones(1))
