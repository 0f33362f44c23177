"""Which columns of a file make the rows of a view, and the rows that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from services.transformer.keys import entity_text, joined_ids
from services.transformer.row import NEVER, RowFormat
from services.transformer.schema import Column
from services.transformer.views import FeatureView
from services.transformer.writer import FeatureWriter
from services.transformer.writing.cells import Faults
from services.transformer.writing.newest import PackedRow
from services.transformer.writing.packing import ColumnData, pack_rows, stored_dtype
from services.transformer.writing.tables import BadTable, Block, Refused, Table

__all__ = ["EVENT_TIME_COLUMN", "Columns", "PackedBlock", "Packer", "columns_of", "fits"]

EVENT_TIME_COLUMN = (
    "event_time"  # optional: RFC 3339 with its offset, or seconds since 1970; of a group event_time.<group>
)


@dataclass(frozen=True)
class Columns:
    """The columns of a file that are used."""

    ids: list[tuple[str, bool]]
    """Name of each id's column, and whether its ids are of type int."""
    absent: frozenset[str]
    """Source groups of which the file has nothing: what is stored of them stays."""
    times: list[str]
    """Column of each group's event time; empty: it has none."""
    ignored: list[str]


@dataclass(frozen=True)
class PackedBlock:
    """Rows that are ready to be written, where each stands in the file, and the lines between them that are refused."""

    rows: list[PackedRow]
    places: list[int]
    refused: list[Refused]
    share_read: float

    @property
    def count(self) -> int:
        return len(self.rows) + len(self.refused)


def fits(header: Sequence[str], view: FeatureView) -> bool:
    """Whether a file with these columns could fill the view."""
    return not _missing(header, view, RowFormat(view.columns))[0]


def columns_of(table: Table, file: Path, view: FeatureView, layout: RowFormat) -> Columns:
    """Raises BadTable for columns that are missing, stand twice, or hold values of another kind: all of them at once."""
    header = table.header
    missing, absent = _missing(header, view, layout)
    faults = [f"column {name} is missing" for name in missing]
    faults += [f"column {name} stands twice" for name in sorted({name for name in header if header.count(name) > 1})]
    faults += [
        fault for column in layout.schema if column.name in header and (fault := table.fault_of(column.name, column))
    ]
    ids = [(part.name, part.type == "int") for part in view.entity.parts]
    faults += [
        fault
        for name, is_int in ids
        if is_int and name in header and (fault := table.fault_of(name, Column(name, "INT64")))
    ]
    used = {name for name, _ in ids} | {column.name for column in layout.schema}
    times = []
    for group in layout.groups:
        names = [f"{EVENT_TIME_COLUMN}.{group.name}", EVENT_TIME_COLUMN]
        times.append(next((name for name in names if name in header and name not in used), ""))
    faults += [fault for name in dict.fromkeys(times) if name and (fault := table.fault_of_times(name))]
    if faults:
        raise BadTable(f"{file}: {'; '.join(faults)}")
    ignored = [name for name in header if name not in used and name not in times]
    return Columns(ids, absent, times, ignored)


@dataclass
class Packer:
    """Makes rows of blocks. Rows without an event time get `default_us`; of two of them for one entity the second is refused."""

    writer: FeatureWriter
    columns: Columns
    default_us: int
    latest_us: int
    nan_is_null: bool = False
    _seen: set[bytes] = field(default_factory=set)  # some 100 bytes a row, where rows have no event times

    def see(self, block: Block) -> None:
        """Keep in mind which entities stand in a block that is skipped."""
        if not any(self.columns.times):
            self._entities(block, {})

    def pack(self, block: Block, share_read: float = 0.0) -> PackedBlock:
        """The rows of a block, whole columns at a time."""
        layout = self.writer.format
        count = len(block.places)
        faults: Faults = {}
        columns = []
        for column in layout.schema:
            if column.group in self.columns.absent:
                columns.append(_nothing(column, count))
                continue
            data, wrong = block.column(column.name, column)
            if self.nan_is_null and column.datatype.startswith("FP") and not column.shape:
                nans = np.isnan(np.asarray(data.values))
                data = data._replace(nulls=nans if data.nulls is None else nans | data.nulls)
            columns.append(data)
            _note(faults, wrong)
        times = np.full((count, len(layout.groups)), self.default_us, np.int64)
        read = {}
        for at, (group, name) in enumerate(zip(layout.groups, self.columns.times, strict=True)):
            if group.name in self.columns.absent:
                times[:, at] = NEVER
            elif name:
                if name not in read:
                    read[name] = block.times(name, self.latest_us)
                    _note(faults, read[name][1])
                times[:, at] = read[name][0]
        entities = self._entities(block, faults)
        packed = pack_rows(layout, columns, times)
        prefix, places = self.writer.key_prefix, list(block.places)
        rows = list(map(PackedRow, [prefix + entity for entity in entities], packed))
        if not faults:
            return PackedBlock(rows, places, list(block.refused), share_read)
        kept = [at for at in range(count) if at not in faults]
        refused = [*block.refused, *(Refused(places[at], why) for at, why in faults.items())]
        refused.sort(key=lambda each: each.line)
        return PackedBlock([rows[at] for at in kept], [places[at] for at in kept], refused, share_read)

    def _entities(self, block: Block, faults: Faults) -> list[bytes]:
        """The entities as they stand in keys; what is none is noted."""
        parts = []
        for name, is_int in self.columns.ids:
            ids, wrong = block.ids(name, is_int=is_int)
            for at, why in wrong.items():
                faults[at] = why  # says more than what may be wrong with a value
            texts = []
            for at, each in enumerate(ids):
                try:
                    texts.append(entity_text(each))
                except ValueError as error:
                    faults.setdefault(at, str(error))
                    texts.append(b"")
            parts.append(texts)
        entities = parts[0] if len(parts) == 1 else [joined_ids(ids) for ids in zip(*parts, strict=True)]
        if not any(self.columns.times):  # nothing says which of two rows is right
            for at, entity in enumerate(entities):
                if at in faults:
                    continue
                if entity in self._seen:
                    faults[at] = f"entity {entity.decode('utf-8', 'backslashreplace')!r} stands twice"
                self._seen.add(entity)
        return entities


def _missing(header: Sequence[str], view: FeatureView, layout: RowFormat) -> tuple[list[str], frozenset[str]]:
    """Columns that a file lacks, and groups of which it has none at all: it need not have all of them, but one."""
    there = set(header)
    absent = {group.name for group in layout.groups if not any(layout.schema[p].name in there for p in group.positions)}
    if len(absent) == len(layout.groups):
        absent = set()
    missing = [part.name for part in view.entity.parts if part.name not in there]
    missing += [column.name for column in layout.schema if column.name not in there and column.group not in absent]
    return missing, frozenset(absent)


def _note(faults: Faults, wrong: Faults) -> None:
    for at, why in wrong.items():
        faults.setdefault(at, why)


def _nothing(column: Column, count: int) -> ColumnData:
    nulls = np.ones(count, np.bool_)
    if column.datatype == "BYTES":
        return ColumnData([b""] * count, nulls)
    return ColumnData(np.zeros((count, *column.shape), stored_dtype(column.datatype)), nulls)
