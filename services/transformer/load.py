"""Filling a view from a CSV file: a header with the entity and every feature, then an entity a line."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path

from services.transformer.policy import micros
from services.transformer.row import INT64, Value
from services.transformer.views import FeatureView
from services.transformer.writer import FeatureWriter, PackedRow

__all__ = ["EVENT_TIME_COLUMN", "BadTable", "LoadSummary", "Refused", "load_csv", "view_of_header"]

EVENT_TIME_COLUMN = "event_time"  # optional: RFC 3339 with its offset, or seconds since 1970
BATCH_ROWS = 500
SHOWN_REFUSALS = 20
AHEAD_US = 86_400_000_000  # a day; a row of the year 57742, by milliseconds for seconds, would keep out all that follow

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class BadTable(Exception):
    """A file that can't be loaded at all; the text says why."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that was not loaded, and why."""

    line: int
    why: str


@dataclass
class LoadSummary:
    """What became of the rows of a file. `refusals` holds the first of them; `refused` counts all."""

    rows: int = 0
    written: int = 0
    older: int = 0
    refused: int = 0
    seconds: float = 0.0
    ignored_columns: list[str] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0


async def load_csv(
    file: Path,
    writer: FeatureWriter,
    *,
    event_time_us: int,
    progress: Callable[[int], None] = lambda rows: None,
    clock: Callable[[], float] = time.perf_counter,
    now: Callable[[], float] = time.time,
) -> LoadSummary:
    """Load every row that fits and say what became of the others. Raises BadTable, and redis-py's errors.

    Rows without an event time of their own get `event_time_us`; one that is more than a day ahead of `now` is refused. An empty
    cell is null. Loading a file again is harmless. `progress` is told the number of rows so far.
    """
    started = clock()
    summary = LoadSummary()
    times = _Times(event_time_us, micros(now()) + AHEAD_US)
    lines = _read(file, writer, times, summary)
    while batch := list(islice(lines, BATCH_ROWS)):
        packed = [row for row in batch if isinstance(row, PackedRow)]
        refused = [row for row in batch if isinstance(row, Refused)]
        if packed:
            result = await writer.write(packed)
            summary.written += result.written
            summary.older += result.older
        summary.rows += len(batch)
        summary.refused += len(refused)
        summary.refusals += refused[: SHOWN_REFUSALS - len(summary.refusals)]
        summary.seconds = clock() - started
        progress(summary.rows)
    return summary


def view_of_header(file: Path, views: dict[str, FeatureView]) -> str:
    """The one view that a file is for, by its columns. Raises BadTable when none or several would do."""
    with _opened(file) as lines:
        header = next(csv.reader(lines), [])
    fits = [name for name, view in views.items() if {view.entity.name, *(f.name for f in view.features)} <= set(header)]
    if len(fits) != 1:
        raise BadTable(f"{file}: its columns fit {', '.join(fits) or 'no view'}; say which view it is for")
    return fits[0]


def _read(file: Path, writer: FeatureWriter, times: _Times, summary: LoadSummary) -> Iterator[PackedRow | Refused]:
    with _opened(file) as lines:
        table = csv.reader(lines, strict=True)
        try:
            header = next(table, [])
            columns = _Columns(file, header, writer.view)
            summary.ignored_columns = columns.ignored
            seen: set[bytes] = set()
            for cells in table:
                if cells:  # else an empty line
                    yield _packed(cells, columns, writer, times, seen, table.line_num)
        except csv.Error as error:
            raise BadTable(f"{file}: line {table.line_num}: {error}") from None
        except UnicodeDecodeError as error:
            raise BadTable(f"{file}: expected UTF-8: {error}") from None


def _opened(file: Path):  # type: ignore[no-untyped-def]  # a text file
    try:
        return file.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise BadTable(f"{file}: can't be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class _Times:
    """The event time of rows that have none, and the latest that one may have, in microseconds."""

    default_us: int
    latest_us: int


class _Columns:
    """Where in a line what stands."""

    def __init__(self, file: Path, header: list[str], view: FeatureView) -> None:
        names = [view.entity.name, *(feature.name for feature in view.features)]
        missing = [name for name in names if name not in header]
        twice = sorted({name for name in header if header.count(name) > 1})
        if missing or twice:
            faults = [f"column {name} is missing" for name in missing] + [
                f"column {name} stands twice" for name in twice
            ]
            raise BadTable(f"{file}: {'; '.join(faults)}")
        self.count = len(header)
        self.entity = header.index(view.entity.name)
        self.is_int = view.entity.type == "int"
        self.features = [(header.index(f.name), f.name, f.datatype) for f in view.features]
        has_time = EVENT_TIME_COLUMN in header and EVENT_TIME_COLUMN not in names
        self.event_time = header.index(EVENT_TIME_COLUMN) if has_time else None
        self.ignored = [name for name in header if name not in names and not (has_time and name == EVENT_TIME_COLUMN)]


def _packed(
    cells: list[str], columns: _Columns, writer: FeatureWriter, times: _Times, seen: set[bytes], line: int
) -> PackedRow | Refused:
    try:
        if len(cells) != columns.count:
            raise ValueError(f"expected {columns.count} cells, got {len(cells)}")
        entity = _whole_number(cells[columns.entity]) if columns.is_int else cells[columns.entity]
        values = [_value(cells[at], name, datatype) for at, name, datatype in columns.features]
        if columns.event_time is not None:
            return writer.pack(entity, values, _event_time(cells[columns.event_time], times.latest_us))
        packed = writer.pack(entity, values, times.default_us)
        if packed.key in seen:  # without event times nothing says which of the two is right
            raise ValueError(f"entity {cells[columns.entity]!r} stands twice")
        seen.add(packed.key)
        return packed
    except ValueError as error:
        return Refused(line, str(error))


def _value(cell: str, name: str, datatype: str) -> Value:
    text = cell.strip()
    if not text:
        return None
    try:
        if datatype == "BOOL":
            return _BOOLEANS[text.lower()]
        return _whole_number(text) if datatype == "INT64" else _number(text)
    except (ValueError, KeyError):
        raise ValueError(f'feature "{name}": expected {datatype}, got {cell!r}') from None


def _number(text: str) -> float:
    if "_" in text:  # Python's own liberty
        raise ValueError(text)
    return float(text)


def _whole_number(text: str) -> int:
    number = int(text)
    if str(number) != text:  # 007, +7 and 7 would be three texts for one key
        raise ValueError(f"expected a whole number as 7 or -7, got {text!r}")
    return number


def _event_time(cell: str, latest_us: int) -> int:
    time_us = _any_time(cell)
    if time_us > latest_us:
        raise ValueError(
            f"event_time: {cell!r} is more than a day ahead of now; expected RFC 3339 or seconds since 1970"
        )
    if time_us not in INT64:
        raise ValueError(f"event_time: {cell!r} is too long ago: 64 bits can't hold its microseconds")
    return time_us


def _any_time(cell: str) -> int:
    try:
        return micros(float(cell))
    except (ValueError, OverflowError):
        pass
    try:
        time_of_day = datetime.fromisoformat(cell)
    except ValueError:
        raise ValueError(f"event_time: expected RFC 3339 or seconds since 1970, got {cell!r}") from None
    if time_of_day.tzinfo is None:
        raise ValueError(f"event_time: expected an offset such as Z, got {cell!r}")
    return micros(time_of_day.timestamp())
