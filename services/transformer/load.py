"""Filling a view from a file: CSV, Parquet or Arrow, with the entity and the features as columns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import RedisError

from services.transformer.policy import micros
from services.transformer.views import FeatureView
from services.transformer.writer import FeatureWriter, NotWritten
from services.transformer.writing.again import Again
from services.transformer.writing.newest import AHEAD_US, NotARow, Written
from services.transformer.writing.picked import EVENT_TIME_COLUMN, PackedBlock, Packer, columns_of, fits
from services.transformer.writing.tables import BadTable, Refused, Table, open_table

__all__ = [
    "EVENT_TIME_COLUMN",
    "BadTable",
    "LoadSummary",
    "NotWritten",
    "Progress",
    "Refused",
    "load_csv",
    "load_file",
    "view_of_header",
]

BATCH_ROWS = 2000  # some ms of packing, and half a megabyte on the wire
SHOWN_REFUSALS = 20


@dataclass
class LoadSummary:
    """What became of the rows of a file. `refusals` holds the first of them; `refused` counts all.

    `rows` are those that this run dealt with, `skipped` those before them that an earlier run had. After an error or a
    cancellation it tells how far the work got: everything up to `rows` is dealt with.
    """

    rows: int = 0
    written: int = 0
    older: int = 0
    refused: int = 0
    skipped: int = 0
    seconds: float = 0.0
    unit: str = "line"
    share_read: float = 0.0
    ignored_columns: list[str] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0


Progress = Callable[[LoadSummary], None]


async def load_csv(
    file: Path,
    writer: FeatureWriter,
    *,
    event_time_us: int,
    progress: Callable[[int], None] = lambda rows: None,
    clock: Callable[[], float] = time.perf_counter,
    now: Callable[[], float] = time.time,
) -> LoadSummary:
    """`load_file` in one attempt: raises redis-py's errors."""
    try:
        return await load_file(
            file,
            writer,
            event_time_us=event_time_us,
            progress=lambda summary: progress(summary.rows),
            again=Again(patience_s=0),
            clock=clock,
            now=now,
        )
    except NotWritten as error:
        if isinstance(error.__cause__, (RedisError, OSError)):
            raise error.__cause__ from None
        raise


async def load_file(
    file: Path,
    writer: FeatureWriter,
    *,
    event_time_us: int,
    summary: LoadSummary | None = None,
    skip: int = 0,
    nan_is_null: bool = False,
    dry_run: bool = False,
    again: Again | None = None,
    progress: Progress = lambda summary: None,
    keep: Callable[[LoadSummary], Awaitable[object]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    now: Callable[[], float] = time.time,
) -> LoadSummary:
    """Load every row that fits and say what became of the others. Raises BadTable and NotWritten.

    Rows without an event time of their own get `event_time_us`; one that is more than a day ahead of `now` is refused. An empty
    cell is null. Loading a file again is harmless. One batch is on its way while the next is read: a Redis that is slow slows
    reading down, and rows of one entity keep their order. The first `skip` rows are read and not written. `summary` is filled in
    as the work goes on, for who wants to know after an error; `progress` is told after each batch, and `keep`
    awaited: a checkpoint.
    """
    started = clock()
    summary = summary or LoadSummary()
    again = again or Again()
    table = await asyncio.to_thread(open_table, file)
    columns = columns_of(table, file, writer.view, writer.format)
    summary.unit, summary.ignored_columns = table.unit, columns.ignored
    packer = Packer(writer, columns, event_time_us, micros(now()) + AHEAD_US, nan_is_null=nan_is_null)
    blocks = _blocks(table, packer, skip, summary)
    block = await asyncio.to_thread(next, blocks, None)
    while block is not None:
        reading = asyncio.ensure_future(asyncio.to_thread(next, blocks, None))
        try:
            result, refused = await _write(writer, block, again, dry_run=dry_run)
        finally:
            await asyncio.wait({reading})  # some ms; a thread can't be left behind
        summary.rows += block.count
        summary.written += result.written
        summary.older += result.older
        summary.refused += len(refused)
        summary.refusals += refused[: SHOWN_REFUSALS - len(summary.refusals)]
        summary.seconds, summary.share_read = clock() - started, block.share_read
        progress(summary)
        if keep is not None:
            await again(lambda: keep(summary))
        _end_if_cancelled()
        block = reading.result()
    return summary


def view_of_header(file: Path, views: dict[str, FeatureView]) -> str:
    """The one view that a file is for, by its columns. Raises BadTable when none or several would do."""
    header = open_table(file).header
    found = [name for name, view in views.items() if fits(header, view)]
    if len(found) != 1:
        raise BadTable(f"{file}: its columns fit {', '.join(found) or 'no view'}; say which view it is for")
    return found[0]


def _end_if_cancelled() -> None:
    """redis-py takes a connection out of its pool under a timeout of 0 s, which swallows a cancellation of that moment."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _blocks(table: Table, packer: Packer, skip: int, summary: LoadSummary) -> Iterator[PackedBlock]:
    for block in table.blocks(BATCH_ROWS):
        count = len(block.places) + len(block.refused)
        if summary.skipped + count <= skip:  # a block that was cut in two is written whole: twice is harmless
            packer.see(block)
            summary.skipped += count
            continue
        skip = 0
        yield packer.pack(block, table.share_read)


async def _write(
    writer: FeatureWriter, block: PackedBlock, again: Again, *, dry_run: bool
) -> tuple[Written, list[Refused]]:
    """What became of the rows, and the lines of the block that are not written."""
    if dry_run or not block.rows:
        return Written(len(block.rows), 0), block.refused
    try:
        return await again(lambda: writer.write(block.rows)), block.refused
    except NotWritten as error:
        if not isinstance(fault := error.__cause__, NotARow):
            raise
        taken = [
            Refused(block.places[place], "its key holds what is no row, by another writer") for place in fault.places
        ]
        return fault.rest, sorted([*block.refused, *taken], key=lambda refused: refused.line)
