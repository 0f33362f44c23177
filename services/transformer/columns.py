"""Columns of packed rows as a tensor: which bytes of a row they are is worked out once, at load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import DATATYPES, Array
from services.transformer.row import RowFormat
from services.transformer.schema import TEXT

__all__ = ["Columns", "Rows", "TextRows"]

Rows = NDArray[np.uint8]  # (N, width): N rows of one view, end to end
Texts = NDArray[np.object_]


class TextRows(np.ndarray[Any, np.dtype[np.uint8]]):
    """Rows of a view that has texts: the fixed parts as any rows, and beside them `texts`, (N, texts of the format) as bytes."""

    texts: Texts

    @classmethod
    def of(cls, fixed: Rows, texts: Texts) -> TextRows:
        rows = fixed.view(cls)
        rows.texts = texts
        return rows


class Columns:
    """Looked-up columns side by side, as one tensor [N, W]; a single column may be [N] or, if it has a shape, [N, *shape].

    `columns` are (view's name in the service, feature) pairs in order; one with a shape takes as many places as it has elements.
    Neighbours of one view and datatype are taken as one slice, so that the work grows with the number of slices and not with that
    of the features. Texts can't stand beside numbers.
    """

    def __init__(
        self,
        columns: Sequence[tuple[str, str]],
        formats: Mapping[str, RowFormat],
        datatype: str,
        *,
        vector: bool = False,
    ) -> None:
        self.datatype = datatype
        self._dtype = DATATYPES[datatype].dtype
        found = [(alias, formats[alias], _position(formats[alias], feature)) for alias, feature in columns]
        schema = [layout.schema[position] for _, layout, position in found]
        self.width = sum(column.elements for column in schema)
        self._inner = () if vector else schema[0].shape if len(schema) == 1 and schema[0].shape else (self.width,)
        self.shape = (-1, *self._inner)  # as metadata says it
        self._shaped = self._inner != (self.width,)
        if any((column.datatype == TEXT) is not (datatype == TEXT) for column in schema):
            raise ValueError(
                f"{', '.join(column.name for column in schema)}: {TEXT} and numbers can't be one {datatype}"
            )
        self._texts = [(a, layout.texts.index(p)) for a, layout, p in found] if datatype == TEXT else []
        self._runs = [] if self._texts else _runs(found)

    def take(self, rows: Mapping[str, Rows]) -> Array:
        """The tensor for N rows of each view; a view of their bytes where no copy is needed."""
        tensor: Array
        if len(self._runs) == 1:
            _, _, alias, stored, dtype = self._runs[0]
            tensor = _values(rows[alias][:, stored], dtype)
            if dtype != self._dtype:
                tensor = tensor.astype(self._dtype)
            if type(tensor) is TextRows:
                tensor = tensor.view(np.ndarray)
        else:
            tensor = np.empty((len(next(iter(rows.values()))), self.width), self._dtype)
            for start, stop, alias, stored, dtype in self._runs:
                tensor[:, start:stop] = _values(rows[alias][:, stored], dtype)
            for at, (alias, text) in enumerate(self._texts):
                held = rows[alias]
                assert isinstance(held, TextRows)
                tensor[:, at] = held.texts[:, text]
        return tensor.reshape(len(tensor), *self._inner) if self._shaped else tensor


Found = tuple[str, RowFormat, int]  # view, its format, position of the column
Run = tuple[int, int, str, slice, np.dtype[np.generic]]  # columns from, to; view; bytes of the row; their datatype


def _position(layout: RowFormat, feature: str) -> int:
    return [column.name for column in layout.schema].index(feature)


def _runs(columns: Sequence[Found]) -> list[Run]:
    runs: list[Run] = []
    start = 0
    for alias, layout, position in columns:
        column, stored = layout.schema[position], layout.slices[position]
        dtype = DATATYPES[column.datatype].dtype
        stop = start + column.elements
        if runs and runs[-1][2] == alias and runs[-1][3].stop == stored.start and runs[-1][4] == dtype:
            first, _, _, before, _ = runs.pop()
            runs.append((first, stop, alias, slice(before.start, stored.stop), dtype))
        else:
            runs.append((start, stop, alias, stored, dtype))
        start = stop
    return runs


def _values(stored: Rows, dtype: np.dtype[np.generic]) -> Array:
    if dtype.kind == "b":
        return np.not_equal(stored, 0)  # any other byte would be no BOOL to the model
    return stored.view(dtype)
