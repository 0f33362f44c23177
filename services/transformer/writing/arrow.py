"""Parquet and Arrow files (Feather is one), by pyarrow; it belongs to the extra `parquet` of the command line."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.transformer.row import INT64
from services.transformer.schema import TEXT, Column, unfit
from services.transformer.writing.cells import Faults, Parsed, fault_of_time, parse_times
from services.transformer.writing.packing import ColumnData, stored_dtype
from services.transformer.writing.tables import BadTable, Refused

__all__ = ["open_arrow"]

SECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}


def open_arrow(file: Path, magic: bytes) -> _ArrowTable:
    """A file whose first bytes are `magic`. Raises BadTable when it is cut off or damaged, and when pyarrow is not there."""
    try:
        pyarrow = importlib.import_module("pyarrow")
    except ModuleNotFoundError:
        raise BadTable(f"{file}: reading it needs pyarrow: pip install 'infermesh[parquet]'") from None
    what = "Parquet" if magic[:4] == b"PAR1" or file.suffix == ".parquet" else "Arrow"
    try:
        if what == "Parquet":
            return _Parquet(file, pyarrow)
        return _Ipc(file, pyarrow, is_stream=magic != b"ARROW1")
    except (pyarrow.ArrowException, OSError) as error:
        raise BadTable(f"{file}: is cut off, damaged, or no {what} file: {_first_line(error)}") from None


class _ArrowTable:
    """What the kinds of files share: a schema, and record batches one after the other."""

    unit = "row"

    def __init__(self, file: Path, pyarrow: Any, schema: Any, rows: int) -> None:
        self._file = file
        self._pa = pyarrow
        self._schema = schema
        self._rows = rows
        self._read = 0
        self.header: list[str] = list(schema.names)

    @property
    def share_read(self) -> float:
        return self._read / self._rows if self._rows else 0.0

    def fault_of(self, name: str, column: Column) -> str:
        """A column of another kind is a mistake in all of its rows."""
        found = self._schema.field(name).type
        if _may_be(self._pa.types, found, column):
            return ""
        shape = f" {list(column.shape)}" if column.shape else ""
        return f'column "{name}": expected {column.datatype}{shape}, the file has {found}'

    def fault_of_times(self, name: str) -> str:
        """A timestamp that does not say where it is midnight is no point in time."""
        types, found = self._pa.types, self._schema.field(name).type
        if types.is_timestamp(found) and found.tz is not None:
            return ""
        if (
            types.is_string(found)
            or types.is_large_string(found)
            or types.is_floating(found)
            or types.is_integer(found)
        ):
            return ""
        return f'column "{name}": expected a timestamp with a time zone, the file has {found}'

    def blocks(self, rows: int) -> Iterator[_ArrowBlock]:
        try:
            for batch in self._batches(rows):
                for start in range(0, batch.num_rows, rows):
                    part = batch.slice(start, rows)
                    first, self._read = self._read + 1, self._read + part.num_rows
                    yield _ArrowBlock(self._pa, part, range(first, first + part.num_rows))
        except (self._pa.ArrowException, OSError) as error:
            raise BadTable(f"{self._file}: damaged after row {self._read}: {_first_line(error)}") from None

    def _batches(self, rows: int) -> Iterator[Any]:
        raise NotImplementedError


class _Parquet(_ArrowTable):
    def __init__(self, file: Path, pyarrow: Any) -> None:
        self._parquet = importlib.import_module("pyarrow.parquet").ParquetFile(file, page_checksum_verification=True)
        super().__init__(file, pyarrow, self._parquet.schema_arrow, self._parquet.metadata.num_rows)

    def _batches(self, rows: int) -> Iterator[Any]:
        with self._parquet:
            yield from self._parquet.iter_batches(batch_size=rows)


class _Ipc(_ArrowTable):
    def __init__(self, file: Path, pyarrow: Any, *, is_stream: bool) -> None:
        ipc = importlib.import_module("pyarrow.ipc")
        self._source = pyarrow.memory_map(str(file))
        self._is_stream = is_stream
        self._reader = ipc.open_stream(self._source) if is_stream else ipc.open_file(self._source)
        rows = (
            0
            if is_stream
            else sum(self._reader.get_batch(at).num_rows for at in range(self._reader.num_record_batches))
        )
        super().__init__(file, pyarrow, self._reader.schema, rows)

    def _batches(self, rows: int) -> Iterator[Any]:
        with self._source:
            if self._is_stream:
                yield from self._reader
            else:
                yield from map(self._reader.get_batch, range(self._reader.num_record_batches))


@dataclass
class _ArrowBlock:
    pa: Any
    batch: Any
    places: Sequence[int]
    refused: Sequence[Refused] = ()

    def ids(self, name: str, *, is_int: bool) -> tuple[Sequence[bytes | str | int], Faults]:
        cells = self._array(name).to_pylist()
        faults = {at: f'entity "{name}": null' for at, cell in enumerate(cells) if cell is None}
        if not is_int:
            cells = [str(cell) if isinstance(cell, int) else cell for cell in cells]
        return [("" if not is_int else 0) if cell is None else cell for cell in cells], faults

    def column(self, name: str, column: Column) -> Parsed:
        array = self._array(name)
        nulls = np.asarray(array.is_null()) if array.null_count else None
        if column.datatype == TEXT:
            texts = [
                b"" if text is None else text.encode() if isinstance(text, str) else text for text in array.to_pylist()
            ]
            faults = {
                at: f'feature "{column.name}": {why}' for at, text in enumerate(texts) if (why := unfit(text, TEXT))
            }
            return Parsed(ColumnData(texts, nulls), faults)
        if column.shape:
            return _vectors(array, column, nulls)
        return _numbers(array.fill_null(_zero(self.pa, array)) if nulls is not None else array, column, nulls)

    def times(self, name: str, latest_us: int) -> tuple[NDArray[np.int64], Faults]:
        array = self._array(name)
        if self.pa.types.is_string(array.type) or self.pa.types.is_large_string(array.type):
            return parse_times([text or "" for text in array.to_pylist()], latest_us)
        faults: Faults = dict.fromkeys(np.flatnonzero(np.asarray(array.is_null())).tolist(), "event_time: null")
        if self.pa.types.is_timestamp(array.type):
            unit = array.type.unit
            ticks = np.asarray(array.cast(self.pa.int64()).fill_null(0))
            wide = ticks.astype(object) * SECONDS[unit] if unit in SECONDS else (ticks // 1000).astype(object)
        else:
            seconds = np.asarray(array.cast(self.pa.float64()).fill_null(0))
            wide = np.array([_micros(each) for each in seconds.tolist()], object)
        times = np.zeros(len(array), np.int64)
        for at, time_us in enumerate(wide.tolist()):
            if at in faults:
                continue
            if time_us is None:
                faults[at] = "event_time: expected seconds since 1970, got nan"
            elif (time_us > latest_us or time_us not in INT64) and (
                why := fault_of_time(time_us, repr(str(array[at].as_py())), latest_us)
            ):
                faults[at] = why
            else:
                times[at] = time_us
        return times, faults

    def _array(self, name: str) -> Any:
        array = self.batch.column(self.batch.schema.get_field_index(name))
        return array.dictionary_decode() if self.pa.types.is_dictionary(array.type) else array


def _numbers(array: Any, column: Column, nulls: Any) -> Parsed:
    wide = np.asarray(array)
    dtype = stored_dtype(column.datatype)
    with np.errstate(over="ignore", invalid="ignore"):
        values = wide.astype(dtype)
    if wide.dtype == dtype or dtype.kind == "b":
        return Parsed(ColumnData(values, nulls), {})
    bad = np.isinf(values) & ~np.isinf(wide) if dtype.kind == "f" else _outside(wide, dtype)
    faults = {
        int(at): f'feature "{column.name}": {unfit(wide[at].item(), column.datatype)}'
        for at in np.flatnonzero(bad)
        if nulls is None or not nulls[at]
    }
    return Parsed(ColumnData(values, nulls), faults)


def _outside(wide: Any, dtype: Any) -> Any:
    limits = np.iinfo(dtype)
    ours = np.iinfo(wide.dtype)
    low = wide < limits.min if ours.min < limits.min else False
    high = wide > limits.max if ours.max > limits.max else False
    return np.zeros(len(wide), np.bool_) | low | high


def _vectors(array: Any, column: Column, nulls: Any) -> Parsed:
    """Lists, of fixed size or not, nested as deep as the shape."""
    nothing = np.zeros(column.shape, stored_dtype(column.datatype))
    values = [nothing] * len(array)
    faults = {}
    for at, vector in enumerate(array.to_pylist()):
        if vector is None:
            continue
        if why := unfit(vector, column.datatype, column.shape):
            faults[at] = f'feature "{column.name}": {why}'
        else:
            values[at] = np.array(vector, nothing.dtype)
    return Parsed(
        ColumnData(np.stack(values) if values else np.zeros((0, *column.shape), nothing.dtype), nulls), faults
    )


def _may_be(types: Any, found: Any, column: Column) -> bool:
    if types.is_dictionary(found):
        found = found.value_type
    for _ in column.shape:
        if not (types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found)):
            return False
        found = found.value_type
    if types.is_null(found):
        return True  # a column of nulls alone
    if column.datatype == TEXT:
        return bool(
            types.is_string(found)
            or types.is_large_string(found)
            or types.is_binary(found)
            or types.is_large_binary(found)
        )
    if column.datatype == "BOOL":
        return bool(types.is_boolean(found))
    if column.datatype.startswith("FP"):
        return bool(types.is_floating(found) or types.is_integer(found))
    return bool(types.is_integer(found))


def _zero(pyarrow: Any, array: Any) -> Any:
    return pyarrow.scalar(False if pyarrow.types.is_boolean(array.type) else 0, array.type)


def _micros(seconds: float) -> int | None:
    """Of any size; None for what is no number."""
    if seconds != seconds:
        return None
    return round(max(-1e30, min(1e30, seconds)) * 1e6)  # the ends are as far out of reach as infinity


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
