"""Columns of packed rows as a tensor: which bytes of a row they are is worked out once, at load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import DATATYPES, Array
from services.transformer.row import RowFormat

__all__ = ["Columns", "Rows"]

Rows = NDArray[np.uint8]  # (N, width): N rows of one view, end to end


class Columns:
    """Looked-up columns side by side, as one tensor [N, W], or [N] for a single column.

    `columns` are (view's name in the service, feature) pairs in order. Neighbours of one view and datatype are taken as one
    slice, so that the work grows with the number of slices and not with that of the features.
    """

    def __init__(
        self,
        columns: Sequence[tuple[str, str]],
        formats: Mapping[str, RowFormat],
        datatype: str,
        *,
        vector: bool = False,
    ) -> None:
        self.width = len(columns)
        self.shape = (-1,) if vector else (-1, self.width)  # as metadata says it
        self.datatype = datatype
        self._dtype = DATATYPES[datatype].dtype
        self._vector = vector
        self._runs = _runs(columns, formats)

    def take(self, rows: Mapping[str, Rows]) -> Array:
        """The tensor for N rows of each view; a view of their bytes where no copy is needed."""
        if len(self._runs) == 1:
            _, _, alias, stored, dtype = self._runs[0]
            tensor = _values(rows[alias][:, stored], dtype).astype(self._dtype, copy=False)
        else:
            count = len(next(iter(rows.values())))
            tensor = np.empty((count, self.width), self._dtype)
            for start, stop, alias, stored, dtype in self._runs:
                tensor[:, start:stop] = _values(rows[alias][:, stored], dtype)
        return tensor.reshape(-1) if self._vector else tensor


Run = tuple[int, int, str, slice, np.dtype[np.generic]]  # columns from, to; view; bytes of the row; their datatype


def _runs(columns: Sequence[tuple[str, str]], formats: Mapping[str, RowFormat]) -> list[Run]:
    runs: list[Run] = []
    for position, (alias, feature) in enumerate(columns):
        layout = formats[alias]
        index = [name for name, _ in layout.columns].index(feature)
        begin, end = layout.offsets[index], layout.offsets[index + 1]
        dtype = DATATYPES[layout.columns[index][1]].dtype
        if runs and runs[-1][2] == alias and runs[-1][3].stop == begin and runs[-1][4] == dtype:
            start, _, _, stored, _ = runs.pop()
            runs.append((start, position + 1, alias, slice(stored.start, end), dtype))
        else:
            runs.append((position, position + 1, alias, slice(begin, end), dtype))
    return runs


def _values(stored: Rows, dtype: np.dtype[np.generic]) -> Array:
    if dtype.kind == "b":
        return np.not_equal(stored, 0)  # any other byte would be no BOOL to the model
    return stored.view(dtype)
