"""Writes Parquet files of the log: parts in a folder that grow by what is new, or one file of everything."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.transformer.served.arrow import batch_of
from services.transformer.served.records import Damage, Record, read_records

__all__ = ["Chosen", "LogSummary", "OtherTypes", "columns_of", "write_file", "write_parts"]

STATE = ".features-log.json"  # in the folder of the parts: how far each file of the log was read
GROUP_ROWS = 20_000
GROUP_BYTES = 16 << 20  # rows of long vectors are many bytes before they are many
FEW = 16  # files that are open at a time

Progress = Callable[["LogSummary"], None]


class OtherTypes(ValueError):
    """Records whose columns can't be one table."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which records are wanted; an empty name and a missing time choose all."""

    model: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def __call__(self, record: Record) -> bool:
        return (
            (not self.model or record.model == self.model)
            and (self.since is None or record.served_at >= self.since)
            and (self.until is None or record.served_at < self.until)
        )


@dataclass
class LogSummary:
    """What was made: requests and rows by model, and the files."""

    requests: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    damage: Damage = field(default_factory=Damage)
    read_bytes: int = 0

    def add(self, record: Record) -> None:
        self.requests[record.model] = self.requests.get(record.model, 0) + 1
        self.rows[record.model] = self.rows.get(record.model, 0) + record.rows


def write_parts(
    files: Sequence[Path], folder: Path, chosen: Chosen, *, by_day: bool = False, progress: Progress = lambda _: None
) -> LogSummary:
    """Write what no earlier run has read to `<folder>/<model>/[date=<day>/]part-<file>-<byte>-<number>.parquet`.

    A part is named by where in the log it begins, and appears whole or not at all, before the state says that it was read: a run
    that was interrupted is made again, and gives the same files. Records of other columns, as a changed schema makes them, begin
    another part. Raises OSError, and ValueError for a state that can't be read or that is of other choices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _State(folder / STATE, f"{chosen.model}|{chosen.since}|{chosen.until}|{by_day}")
    summary = LogSummary()
    for file in files:
        begin = read = state.offset(file)
        with _Parts(folder, f"{file.stem}-{begin}", summary) as parts:
            for found, end in _wanted(file, begin, chosen, summary, progress):
                read = end
                if found is not None:
                    record, batch = found
                    day = f"date={record.served_at:%Y-%m-%d}" if by_day else ""
                    parts.add(batch, (_safe(record.model), day))
        state.read(file, read)
    return summary


def write_file(
    files: Sequence[Path], target: Path, chosen: Chosen, *, progress: Progress = lambda _: None
) -> LogSummary:
    """Write all of the log as one file, in place of the one that was there. A column that some records lack is null in them.

    What is logged while this reads is left for the next time: its columns are not known. Raises OtherTypes when a column has
    several types, OSError.
    """
    schema = pa.schema([])
    known: set[str] = set()
    ends: dict[Path, int] = {}
    for file in files:
        for found, end in _wanted(file, 0, chosen, LogSummary(), lambda _: None):
            ends[file] = end
            if found is None:
                continue
            record, batch = found
            if (key := batch.schema.to_string()) in known:
                continue
            known.add(key)
            try:
                schema = pa.unify_schemas([schema, batch.schema])
            except pa.ArrowException as error:
                raise OtherTypes(
                    f"{record.model} at {record.served_at:%Y-%m-%d %H:%M}: {error}; write to a folder, whose files may differ, "
                    "or choose by --model, --since and --until"
                ) from None
    summary = LogSummary()
    part = _Part(target, schema)
    try:
        for file in files:
            for found, _ in _wanted(file, 0, chosen, summary, progress, until=ends.get(file, 0)):
                if found is not None:
                    part.add(found[1])
        part.done()
    except BaseException:
        part.drop()
        raise
    summary.files.append(target)
    return summary


def columns_of(files: Sequence[Path], chosen: Chosen) -> tuple[dict[str, list[pa.Schema]], LogSummary]:
    """The columns that the records of each model have, those of the first record first; several where they have changed."""
    found: dict[str, list[pa.Schema]] = {}
    summary = LogSummary()
    for file in files:
        for each, _ in _wanted(file, 0, chosen, summary, lambda _: None):
            if each is None:
                continue
            record, batch = each
            schemas = found.setdefault(record.model, [])
            if batch.schema not in schemas:
                schemas.append(batch.schema)
    return found, summary


def _wanted(
    file: Path, offset: int, chosen: Chosen, summary: LogSummary, progress: Progress, *, until: int | None = None
) -> Iterator[tuple[tuple[Record, pa.RecordBatch] | None, int]]:
    """The records that are chosen, counted, with their rows; None for the others: the bytes go on."""
    before = offset
    with suppress(FileNotFoundError), closing(read_records(file, offset, summary.damage)) as records:
        # The oldest files go while others are read.
        for record, end in records:
            if until is not None and end > until:
                return
            found = None
            if record is not None and chosen(record):
                try:
                    found = record, batch_of(record)
                except (pa.ArrowException, ValueError, TypeError, AttributeError) as error:
                    summary.damage.add(file, before, str(error))
                else:
                    summary.add(record)
            summary.read_bytes += end - before
            before = end
            yield found, end
            progress(summary)


def _safe(model: str) -> str:
    """A name as that of a folder: models of the mesh have such names, and a log may come from anywhere."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in model).lstrip(".") or "_"


class _Part:
    """One Parquet file on its way; it appears when it is done."""

    def __init__(self, target: Path, schema: pa.Schema) -> None:
        self.target = target
        self.schema = schema
        self._draft = target.with_name(f".{target.name}.{os.getpid()}")
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def done(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._draft.replace(self.target)

    def drop(self) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
        self._draft.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._writer is None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._draft, self.schema, compression="zstd")
        if self._batches:
            tables = [pa.Table.from_batches([batch]) for batch in self._batches]
            table = pa.concat_tables(tables, promote_options="default") if len(self.schema) else tables[0]
            self._writer.write_table(_like(table, self.schema))
        self._batches, self._rows, self._bytes = [], 0, 0


def _like(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with all columns of the schema, in its order; null where it lacks one."""
    columns = [
        table.column(each.name) if each.name in table.column_names else pa.nulls(table.num_rows, each.type)
        for each in schema
    ]
    return pa.table(columns, schema=schema)


class _Parts:
    """The parts that one file of the log makes."""

    def __init__(self, folder: Path, stem: str, summary: LogSummary) -> None:
        self._folder = folder
        self._stem = stem
        self._summary = summary
        self._open: dict[tuple[str, str], _Part] = {}
        self._numbers: dict[tuple[str, str], int] = {}

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for place in list(self._open):
            self._end(place, done=kind is None)

    def add(self, batch: pa.RecordBatch, place: tuple[str, str]) -> None:
        schema = batch.schema
        part = self._open.get(place)
        if part is not None and part.schema != schema:
            self._end(place)
            part = None
        if part is None:
            if len(self._open) >= FEW:
                self._end(next(iter(self._open)))
            number = self._numbers[place] = self._numbers.get(place, -1) + 1
            target = self._folder.joinpath(*(each for each in place if each)) / f"part-{self._stem}-{number}.parquet"
            part = self._open[place] = _Part(target, schema)
        part.add(batch)

    def _end(self, place: tuple[str, str], *, done: bool = True) -> None:
        part = self._open.pop(place)
        if not done:
            part.drop()
            return
        part.done()
        self._summary.files.append(part.target)


class _State:
    """How far each file of the log was read, kept beside the parts."""

    def __init__(self, file: Path, choices: str) -> None:
        self._file = file
        self._choices = choices
        self._offsets: dict[str, int] = {}
        if file.exists():
            try:
                kept = json.loads(file.read_text(encoding="utf-8"))
                self._offsets = {str(name): int(offset) for name, offset in kept["files"].items()}
                before = str(kept["choices"])
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"{file}: it does not say how far the log was read; delete it to begin anew") from None
            if before != choices:
                raise ValueError(
                    f"{file.parent}: it was begun with other choices (--model, --since, --until, --by-day); take another folder"
                )

    def offset(self, file: Path) -> int:
        return self._offsets.get(file.name, 0)

    def read(self, file: Path, offset: int) -> None:
        """Everything before this byte is in parts."""
        self._offsets[file.name] = offset
        draft = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        draft.write_text(json.dumps({"choices": self._choices, "files": self._offsets}), encoding="utf-8")
        draft.replace(self._file)
