"""A value of the graph that holds the model's input columns, moved about and each by itself changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array

__all__ = ["Computation", "Sources", "Table"]

Sources = NDArray[np.intp]


class Computation:
    """The values for some rows; what several nodes take is computed once."""

    def __init__(self, inputs: Mapping[str, Array]) -> None:
        self.inputs = inputs
        self._known: dict[int, Array] = {}

    def of(self, table: Table) -> Array:
        known = self._known.get(id(table))
        if known is None:
            known = self._known[id(table)] = table.compute(self)
        return known


@dataclass(frozen=True, eq=False)
class Table:
    """`sources` [1, …] says of each element of a row on which of the model's input columns it depends, each on one alone.

    `compute` gives the values [rows, …] with the datatype that ONNX Runtime has there.
    """

    sources: Sources
    compute: Callable[[Computation], Array]
    is_text: bool = False
    dtype: Any = field(default=np.float32)

    @property
    def width(self) -> int:
        return int(self.sources.size)

    def moved(self, move: Callable[[Any], Any]) -> Table:
        """The elements in other places: `move` does to an array of any number of rows what the node does."""
        return Table(
            np.asarray(move(self.sources)), lambda computation: move(computation.of(self)), self.is_text, self.dtype
        )

    def changed(self, change: Callable[[Any], Any], dtype: Any, is_text: bool = False) -> Table:
        """Each element changed by itself, all in their places."""
        return Table(self.sources, lambda computation: change(computation.of(self)), is_text, dtype)
