"""Rows from files: CSV, JSON, or numpy's .npy."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from infermesh.cli.failure import Failure
from infermesh.cli.model_import.rows import Rows, listed
from infermesh.tensors import Array

__all__ = ["MAX_ROWS", "read_rows"]

MAX_ROWS = 100_000  # the check holds all of them, and both answers, in memory

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "None"})


def read_rows(file: Path, as_text: Sequence[str] = ()) -> Rows:
    """The rows of a file. `as_text` names columns that are texts although they look like numbers, such as post codes.

    In CSV a first line with a cell that is no number is the header; an empty cell is a missing number, or an empty text. JSON
    is a list of objects or of lists. Raises Failure with the place in the file.
    """
    try:
        if file.suffix == ".npy":
            rows = _from_npy(file)
        elif file.suffix == ".json":
            rows = _from_json(file, as_text)
        else:
            rows = _from_csv(file, as_text)
    except OSError as error:
        raise Failure(f"--rows {file}: can't be read: {error.strerror}", status=2) from None
    except UnicodeDecodeError:
        raise Failure(
            f"--rows {file}: expected CSV, JSON (.json) or numpy's .npy: this is no UTF-8 text", status=2
        ) from None
    if unknown := [name for name in as_text if name not in rows.names]:
        raise Failure(
            f"--text {unknown[0]}: the rows have no such column", hint=f"there are {listed(rows.names)}", status=2
        )
    if len(set(rows.names)) != len(rows.names):
        raise Failure(f"--rows {file}: two columns of one name: {listed(rows.names)}", status=2)
    return rows


def _from_npy(file: Path) -> Rows:
    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Failure(f"--rows {file}: no .npy file of numbers: {error}", status=2) from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "biuf":
        what = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"
        raise Failure(f"--rows {file}: expected numbers [rows, columns], got {what}", status=2)
    if not array.size:
        raise _empty(file)
    return _bounded(file, (), [column.astype(np.float64) for column in array[:MAX_ROWS].T], len(array))


def _from_csv(file: Path, as_text: Sequence[str]) -> Rows:
    with file.open(newline="", encoding="utf-8-sig") as opened:
        first = opened.readline()
        opened.seek(0)
        separator = next((mark for mark in ",;\t" if mark in first), ",")
        reader = csv.reader(opened, delimiter=separator, strict=True)
        lines: list[list[str]] = []
        try:
            for line in islice(reader, MAX_ROWS + 2):
                if not line:
                    continue
                if lines and len(line) != len(lines[0]):
                    raise Failure(
                        f"--rows {file}: line {reader.line_num}: expected {len(lines[0])} cells, got {len(line)}",
                        status=2,
                    )
                lines.append(line)
        except csv.Error as error:
            raise Failure(f"--rows {file}: line {reader.line_num}: {error}", status=2) from None
    names: tuple[str, ...] = ()
    if lines and [cell.strip() for cell in lines[0]] == [str(i) for i in range(len(lines[0]))]:
        lines.pop(0)  # pandas' header for columns without names
    elif lines and not all(cell in MISSING or _is_number(cell) for cell in lines[0]):
        names = tuple(name.strip() for name in lines.pop(0))
    if not lines:
        raise _empty(file)
    columns = [
        _texts(cells) if names and names[i] in as_text else _numbers_or_texts(cells)
        for i, cells in enumerate(zip(*lines[:MAX_ROWS], strict=True))
    ]
    return _bounded(file, names, columns, len(lines))


def _from_json(file: Path, as_text: Sequence[str]) -> Rows:
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Failure(f"--rows {file}: no JSON: {error}", status=2) from None
    if records == []:
        raise _empty(file)
    names: tuple[str, ...] = ()
    if isinstance(records, list) and all(isinstance(record, dict) for record in records):
        names = tuple(records[0])
        for number, record in enumerate(records, 1):
            if set(record) != set(names):
                raise Failure(f"--rows {file}: row {number}: expected the columns {listed(names)}", status=2)
        records = [[record[name] for name in names] for record in records]
    if not isinstance(records, list) or not all(isinstance(record, list) and record for record in records):
        raise Failure(f"--rows {file}: expected a list of objects, or of lists", status=2)
    for number, record in enumerate(records, 1):
        if len(record) != len(records[0]):
            raise Failure(
                f"--rows {file}: row {number}: expected {len(records[0])} values, got {len(record)}", status=2
            )
    columns = []
    for i, values in enumerate(zip(*records[:MAX_ROWS], strict=True)):
        name = names[i] if names else f"number {i + 1}"
        columns.append(_typed(file, name, values, as_text=name in as_text))
    return _bounded(file, names, columns, len(records))


def _typed(file: Path, name: str, values: Sequence[Any], *, as_text: bool) -> Array:
    """A column of JSON values: texts when all are, numbers when all are; null is missing in either."""
    there = [value for value in values if value is not None]
    if all(isinstance(value, bool | int | float) for value in there):
        if as_text:
            return _texts(["" if value is None else str(value) for value in values])
        try:
            return np.array([np.nan if value is None else float(value) for value in values])
        except OverflowError:
            raise Failure(
                f"--rows {file}: column {name}: an integer is too large for a number of 64 bits", status=2
            ) from None
    if all(isinstance(value, str) for value in there):
        return _texts(["" if value is None else value for value in values])
    raise Failure(f"--rows {file}: column {name}: expected numbers, or texts, in all rows", status=2)


def _numbers_or_texts(cells: Sequence[str]) -> Array:
    try:
        return np.array([np.nan if cell in MISSING else float(cell) for cell in map(str.strip, cells)])
    except ValueError:
        return _texts(cells)


def _texts(cells: Sequence[str]) -> Array:
    texts = np.empty(len(cells), np.object_)
    texts[:] = cells
    return texts


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _bounded(file: Path, names: tuple[str, ...], columns: Sequence[Array], count: int) -> Rows:
    note = (f"the check is on the first {MAX_ROWS:,} rows of {file.name}",) if count > MAX_ROWS else ()
    return Rows(names, tuple(columns), note)


def _empty(file: Path) -> Failure:
    return Failure(
        f"--rows {file}: no rows", hint="the check needs rows like those that the model will be asked", status=2
    )
