"""Rows as a source gives them: what the inputs of a model are made of, and what rows may be told apart by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array
from services.explainer.background import Background
from services.explainer.background_file import BackgroundError

__all__ = ["OUTPUT", "PREDICTION", "Material", "most_rows"]

OUTPUT = "output."  # before the name of an output, among what rows may be told apart by
PREDICTION = "prediction"  # the last column of the first output
MAX_ELEMENTS = 1 << 24  # of all rows that are looked at together: 128 MiB as FP64, while k-means runs

_COLUMN = re.compile(r"(.+)\[(\d{1,9})\]")


def most_rows(rows: int, elements: int) -> int:
    """So many rows, or fewer of so many elements, as far as memory goes."""
    return max(1, min(rows, MAX_ELEMENTS // max(elements, 1)))


@dataclass(frozen=True)
class Material:
    """Rows as a background, and beside them `others`: arrays of as many rows that are no inputs, by name."""

    background: Background
    others: Mapping[str, Array]

    def column(self, name: str) -> NDArray[np.generic]:
        """One value a row: `amount`, `card_features[2]`, `output.score`, `prediction`. Raises BackgroundError.

        Without an index it is the only column, or of an output the last one.
        """
        if name == PREDICTION:
            outputs = [each for each in self.others if each.startswith(OUTPUT)]
            if not outputs:
                raise BackgroundError(f'by: "{PREDICTION}": the source has no outputs')
            return self._one(outputs[0], None)
        found = self._one(name, None) if self._find(name) is not None else None
        indexed = _COLUMN.fullmatch(name)
        if found is None and indexed and self._find(indexed[1]) is not None:
            found = self._one(indexed[1], int(indexed[2]))
        if found is None:
            there = ", ".join([*self.background.arrays, *self.others])[:256]
            raise BackgroundError(f'by: "{name}": no such column; there are {there}')
        return found

    def _find(self, name: str) -> Array | None:
        found = self.background.arrays.get(name)
        return self.others.get(name) if found is None else found

    def _one(self, name: str, index: int | None) -> NDArray[np.generic]:
        found = self._find(name)
        assert found is not None
        columns = found.reshape(len(found), -1)
        width = columns.shape[1]
        if index is None and width != 1 and not name.startswith(OUTPUT):
            raise BackgroundError(f'by: "{name}": it has {width} columns; name one, such as {name}[0]')
        if width == 0 or (index is not None and index >= width):
            raise BackgroundError(f'by: "{name}[{index or 0}]": it has {width} columns')
        one: NDArray[np.generic] = columns[:, -1 if index is None else index]
        return one
