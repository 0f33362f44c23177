"""Records of the log as columns of Arrow: a row for each row of each request. docs/features-log.md has the names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from infermesh.tensors import Array
from services.transformer.row import NEVER
from services.transformer.served.records import Record, Tensor
from services.transformer.statuses import Status

__all__ = ["batch_of"]

_TYPES = {
    "BOOL": pa.bool_(),
    "UINT8": pa.uint8(),
    "UINT16": pa.uint16(),
    "UINT32": pa.uint32(),
    "UINT64": pa.uint64(),
    "INT8": pa.int8(),
    "INT16": pa.int16(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "FP16": pa.float16(),
    "BF16": pa.float32(),
    "FP32": pa.float32(),
    "FP64": pa.float64(),
    "BYTES": pa.string(),
}
_WORDS = pa.dictionary(pa.int8(), pa.string())
_STATUSES = pa.array([status.word for status in Status], pa.string())
_TIME = pa.timestamp("us", tz="UTC")


def batch_of(record: Record) -> pa.RecordBatch:
    """Its rows. Raises ValueError, IndexError or TypeError for values that can't be a column: a damaged line may say anything."""
    return pa.record_batch(dict(_columns(record)))


def _columns(record: Record) -> Iterator[tuple[str, Any]]:
    count = record.rows
    yield "request_id", _same(record.request_id, count, pa.string())
    yield "served_at", _same(record.served_at, count, _TIME)
    for name in ("model", "version", "variant", "tenant", "status"):
        yield name, _same(getattr(record, name), count, pa.string())
    yield "row", pa.array(np.arange(count, dtype=np.int32))
    for name, tensor in record.entities.items():
        yield f"entity.{name}", _ids(tensor)
    for name, tensor in record.request.items():
        yield f"request.{name}", _array(tensor)
    at = 0
    for alias, view in record.views.items():
        yield f"schema.{alias}", _same(view.schema, count, pa.string())
        for group, times in view.event_times.items():
            yield f"event_time.{alias}" + (f".{group}" if group else ""), _times(times.values)
        for feature, tensor in view.features.items():
            yield f"feature.{alias}.{feature}", _array(tensor)
            yield (
                f"status.{alias}.{feature}",
                pa.DictionaryArray.from_arrays(pa.array(record.statuses[:, at].astype(np.int8)), _STATUSES).cast(
                    _WORDS
                ),
            )
            at += 1
    for name, tensor in record.inputs.items():
        yield f"input.{name}", _array(tensor)


def _same(value: object, count: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), count)


def _ids(tensor: Tensor) -> pa.Array:
    texts = _texts(tensor.values)
    return texts.cast(pa.int64()) if tensor.of == "INT64" else texts


def _times(values: Array) -> pa.Array:
    """Event times; null for defaults (0) and for groups that nobody has written."""
    flat = values.reshape(-1).astype("<i8")
    return pa.array(flat, pa.int64(), mask=(flat == 0) | (flat == NEVER)).cast(_TIME)


def _array(tensor: Tensor) -> pa.Array:
    """Scalars for one value in a row, else lists of a fixed size, row-major; Arrow has none of size 0, which are plain lists."""
    values = tensor.values
    flat = values.reshape(-1)
    made = _texts(flat) if tensor.datatype == "BYTES" else pa.array(np.ascontiguousarray(flat), _TYPES[tensor.datatype])
    width = int(np.prod(values.shape[1:]))
    if width == 0:
        return pa.ListArray.from_arrays(pa.array(np.zeros(len(values) + 1, np.int32)), made)
    return made if width == 1 else pa.FixedSizeListArray.from_arrays(made, width)


def _texts(values: Array) -> pa.Array:
    """UTF-8; bytes that are none are written as `\\xff`."""
    return pa.array([text.decode("utf-8", "backslashreplace") for text in values.ravel().tolist()], pa.string())
