"""A table of real rows, for the check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from infermesh.cli.failure import Failure
from infermesh.tensors import Array

__all__ = ["Rows", "listed"]


@dataclass(frozen=True)
class Rows:
    """A table of at least one row. Each column is float64 [rows], NaN where a value is missing, or texts (object [rows])."""

    names: tuple[str, ...]
    """Of the columns; empty when the file has none."""
    columns: tuple[Array, ...]
    notes: tuple[str, ...] = ()
    """What a person should know of how the file was read."""

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def texts(self) -> tuple[int, ...]:
        """The positions of the columns that are texts."""
        return tuple(i for i, column in enumerate(self.columns) if column.dtype == object)

    @property
    def has_missing(self) -> bool:
        """Whether a number is missing somewhere."""
        return any(column.dtype != object and bool(np.isnan(column).any()) for column in self.columns)

    def matrix(self) -> Array:
        """[rows, columns]: float64, or object as soon as one column is texts."""
        matrix: Array = np.stack(self.columns, axis=1)
        return matrix

    def name_of(self, position: int) -> str:
        """What to call a column: its name, or its number from 1."""
        return f'"{self.names[position]}"' if self.names else f"number {position + 1}"

    def first(self, count: int) -> Rows:
        """The first rows only."""
        return replace(self, columns=tuple(column[:count] for column in self.columns))

    def for_model(self, names: Sequence[str], width: int) -> Rows:
        """The columns that a model takes, in its order. `names` is empty when the model knows none: then the file's columns
        are taken as they are. Raises Failure when a column is missing, or there are more or fewer than `width`."""
        if not names or not self.names:
            if len(self.columns) != width:
                named = f": {listed(self.names)}" if self.names else ""
                raise Failure(
                    f"the rows have {len(self.columns)} columns{named}; the model takes {width}",
                    hint="the file is to have the model's columns in the order of its training, and no target",
                )
            return replace(self, names=tuple(names) or self.names)
        if missing := [name for name in names if name not in self.names]:
            raise Failure(
                f"the rows lack {len(missing)} of the model's {len(names)} columns: {listed(missing)}",
                hint=f"the file has {listed(self.names)}",
            )
        extra = [name for name in self.names if name not in names]
        note = (f"columns that the model does not take were left out: {listed(extra)}",) if extra else ()
        columns = tuple(self.columns[self.names.index(name)] for name in names)
        return Rows(tuple(names), columns, (*self.notes, *note))


def listed(names: Sequence[str]) -> str:
    """The first of the names, in one line."""
    return ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")
