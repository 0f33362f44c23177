"""Tables as backgrounds: which columns become which input of the model; and CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from infermesh.tensors import Array, datatype_of
from services.explainer.background import Background
from services.explainer.background_file import BackgroundError
from services.explainer.background_material import OUTPUT, PREDICTION, Material, most_rows
from services.explainer.background_sample import Sample

__all__ = ["INPUT", "Columns", "Declared", "Wanted", "read_csv"]

INPUT = "input."  # before the name of an input, in tables of what was served
PIECE_ROWS = 4096

Declared = Mapping[str, Sequence[str]]  # input → its columns, side by side


@dataclass(frozen=True)
class Wanted:
    """What is asked of a table: inputs by their columns as somebody declared them, or else the model's inputs with the names of
    their features, as far as the model is known; and the column that rows are told apart by."""

    inputs: Declared
    features: Declared
    by: str = ""


@dataclass(frozen=True)
class Columns:
    """What is read of a table: the columns of each input, and those that rows are told apart by."""

    inputs: Declared
    others: tuple[str, ...]

    @classmethod
    def of(cls, there: Sequence[str], wanted: Wanted, where: str) -> Columns:
        """Those that were declared; else those of the model's inputs, by the names `input.<name>`, `<name>` or their features';
        else, for a model that is not known, all that are called `input.<name>`, or every column as an input of its name.

        Raises BackgroundError for a column that is not there.
        """
        by = wanted.by
        inputs: dict[str, Sequence[str]]
        if wanted.inputs or wanted.features:
            inputs = dict(wanted.inputs) or {
                name: next(([each] for each in (INPUT + name, name) if each in there), columns)
                for name, columns in wanted.features.items()
            }
            missing = [column for columns in inputs.values() for column in columns if column not in there]
            if missing:
                raise BackgroundError(f"{where}: no column {missing[0]!r}; there are {', '.join(there)[:256]}")
        else:
            inputs = {name.removeprefix(INPUT): [name] for name in there if name.startswith(INPUT)}
            if not inputs:
                inputs = {name: [name] for name in there if name != by and not name.startswith(OUTPUT)}
        if not inputs:
            raise BackgroundError(f"{where}: no columns")
        taken = {column for columns in inputs.values() for column in columns}
        others = [
            name
            for name in there
            if name not in taken
            and (by.split("[")[0] == name or by == name or (by == PREDICTION and name.startswith(OUTPUT)))
        ]
        return cls(inputs, tuple(others))

    @property
    def names(self) -> list[str]:
        """Every column that is read, once."""
        return list(dict.fromkeys([*(column for columns in self.inputs.values() for column in columns), *self.others]))

    def material(self, rows: Mapping[str, Array], name: str, source: str) -> Material:
        """From the columns' rows. Raises BackgroundError without any, and for texts beside numbers in one input."""
        count = len(next(iter(rows.values()))) if rows else 0
        if count == 0:
            raise BackgroundError(f"{source}: no usable row")
        arrays, others = {}, {each: rows[each] for each in self.others}
        for key, columns in self.inputs.items():
            parts = [rows[column].reshape(count, -1) for column in columns]
            if len({part.dtype == np.object_ for part in parts}) > 1:
                raise BackgroundError(f'{source}: input "{key}": texts and numbers can\'t be one input')
            arrays[key] = rows[columns[0]] if len(parts) == 1 else np.concatenate(parts, axis=1)
            if len(parts) > 1:  # so that each can be told by its own name
                others |= {column: rows[column] for column in columns}
        datatypes = {key: datatype_of(array).name for key, array in arrays.items()}
        background = Background(name, arrays, datatypes, np.full(count, 1 / count), source, casts=True)
        return Material(background, others)


def read_csv(path: Path, name: str, rows: int, seed: int, wanted: Wanted) -> Material:
    """At most that many rows of a CSV file with a header, each with the same chance; raises BackgroundError.

    A column of numbers alone is FP64, any other one BYTES. Rows with an empty cell are left out.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            header = next(reader, [])
            if len(set(header)) != len(header):
                raise BackgroundError(f"{path.name}: two of its columns have one name")
            columns = Columns.of(header, wanted, path.name)
            positions = {each: header.index(each) for each in columns.names}
            sample = Sample(most_rows(rows, len(positions)), seed)
            for piece in _pieces(reader, len(header), path.name):
                cells = [row for row in piece if all(row[at] for at in positions.values())]
                chosen = [cells[row] for row in sample.choose(len(cells))]
                sample.keep({each: _texts([row[at] for row in chosen]) for each, at in positions.items()})
    except (OSError, ValueError, csv.Error) as error:
        raise error if isinstance(error, BackgroundError) else BackgroundError(f"{path.name}: {error}") from None
    return columns.material({each: _typed(column) for each, column in sample.rows().items()}, name, path.name)


def _pieces(reader: Iterator[list[str]], width: int, where: str) -> Iterable[list[list[str]]]:
    done = 1
    while piece := list(islice(reader, PIECE_ROWS)):
        for row, cells in enumerate(piece):
            if len(cells) != width:
                raise BackgroundError(f"{where}: row {done + row + 1}: expected {width} cells, got {len(cells)}")
        done += len(piece)
        yield piece


def _texts(cells: Sequence[str]) -> Array:
    array = np.empty(len(cells), np.object_)
    array[:] = cells
    return array


def _typed(column: Array) -> Array:
    try:
        return column.astype(np.float64)
    except ValueError:
        return _texts([cell.encode() for cell in column.tolist()])
