"""Files of rows, opened by what they are: CSV, Parquet, or Arrow (Feather), each read a block at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.transformer.schema import Column
from services.transformer.writing.cells import Faults, Parsed, ids_of_cells, parse_cells, parse_times

__all__ = ["BadTable", "Block", "CsvTable", "Refused", "Table", "open_table"]


class BadTable(Exception):
    """A file that can't be loaded at all, or not to its end; the text says why."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that was not loaded, and why."""

    line: int
    why: str


class Block(Protocol):
    """Some rows that follow each other, column by column."""

    @property
    def places(self) -> Sequence[int]:
        """Line or row in the file of each, for people."""
        ...

    @property
    def refused(self) -> Sequence[Refused]:
        """Lines between them that are no rows."""
        ...

    def ids(self, name: str, *, is_int: bool) -> tuple[Sequence[bytes | str | int], Faults]: ...

    def column(self, name: str, column: Column) -> Parsed: ...

    def times(self, name: str, latest_us: int) -> tuple[NDArray[np.int64], Faults]: ...


class Table(Protocol):
    """A file of rows."""

    @property
    def header(self) -> Sequence[str]: ...

    @property
    def unit(self) -> str:
        """What `Block.places` counts: line or row."""
        ...

    def fault_of(self, name: str, column: Column) -> str:
        """Why no value of this file's column could be one of the feature; empty when some could."""
        ...

    def fault_of_times(self, name: str) -> str:
        """The same of event times."""
        ...

    def blocks(self, rows: int) -> Iterator[Block]:
        """Blocks of so many rows at most. Raises BadTable where the file is damaged."""
        ...

    @property
    def share_read(self) -> float:
        """How much of the file has been read, from 0 to 1."""
        ...


def open_table(file: Path) -> Table:
    """Raises BadTable for what can't be read; a context is not needed, the file is closed when its blocks have been read."""
    try:
        with file.open("rb") as beginning:
            magic = beginning.read(6)
    except OSError as error:
        raise BadTable(f"{file}: can't be read: {error.strerror}") from None
    if magic[:4] == b"PAR1" or magic == b"ARROW1" or file.suffix in (".parquet", ".arrow", ".feather", ".arrows"):
        from services.transformer.writing.arrow import open_arrow  # with pyarrow, which services do not have

        return open_arrow(file, magic)
    return CsvTable(file)


@dataclass
class _CsvBlock:
    places: list[int]
    refused: list[Refused]
    cells: dict[str, Sequence[str]]

    def ids(self, name: str, *, is_int: bool) -> tuple[Sequence[bytes | str | int], Faults]:
        return ids_of_cells(self.cells[name], is_int=is_int)

    def column(self, name: str, column: Column) -> Parsed:
        return parse_cells(self.cells[name], column)

    def times(self, name: str, latest_us: int) -> tuple[NDArray[np.int64], Faults]:
        return parse_times(self.cells[name], latest_us)


@dataclass
class CsvTable:
    """CSV in UTF-8: a header, then an entity a line."""

    file: Path
    unit: str = "line"
    header: list[str] = field(init=False)

    def __post_init__(self) -> None:
        with _opened(self.file) as lines:
            try:
                self.header = next(csv.reader(lines, strict=True), [])
            except csv.Error as error:
                raise BadTable(f"{self.file}: line 1: {error}") from None
            except UnicodeDecodeError as error:
                raise BadTable(f"{self.file}: expected UTF-8: {error}") from None
        self._size = max(1, self.file.stat().st_size) if self.file.is_file() else 0
        self._read = 0

    @property
    def share_read(self) -> float:
        return min(1.0, self._read / self._size) if self._size else 0.0

    def fault_of(self, name: str, column: Column) -> str:
        return ""

    def fault_of_times(self, name: str) -> str:
        return ""

    def blocks(self, rows: int) -> Iterator[_CsvBlock]:
        with _opened(self.file) as lines:
            table = csv.reader(self._counted(lines), strict=True)
            try:
                next(table, None)
                numbered = ((table.line_num, cells) for cells in table if cells)  # else an empty line
                while batch := list(islice(numbered, rows)):
                    yield self._block(batch)
            except csv.Error as error:
                raise BadTable(f"{self.file}: line {table.line_num}: {error}") from None
            except UnicodeDecodeError as error:
                raise BadTable(f"{self.file}: expected UTF-8: {error}") from None

    def _block(self, batch: list[tuple[int, list[str]]]) -> _CsvBlock:
        width = len(self.header)
        refused = [
            Refused(line, f"expected {width} cells, got {len(cells)}") for line, cells in batch if len(cells) != width
        ]
        if refused:
            batch = [(line, cells) for line, cells in batch if len(cells) == width]
        columns = list(zip(*(cells for _, cells in batch), strict=True)) or [()] * width
        return _CsvBlock([line for line, _ in batch], refused, dict(zip(self.header, columns, strict=True)))

    def _counted(self, lines: Any) -> Iterator[str]:
        for line in lines:
            self._read += len(line)
            yield line


def _opened(file: Path):  # type: ignore[no-untyped-def]  # a text file
    try:
        return file.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise BadTable(f"{file}: can't be read: {error.strerror}") from None
