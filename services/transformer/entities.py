"""What a request brings beside the model's own inputs: ids of entities, and fields that become columns. Read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from infermesh.errors import InvalidRequest, ResourceExhausted, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import Array, read_input
from services.transformer.feature_service import Sized
from services.transformer.keys import MAX_ID_BYTES

__all__ = ["Entities", "Override", "read_field", "read_ids", "wrong"]

Override = tuple[str, str]  # view's name in the service, feature

_NO_FIELDS: Mapping[str, Array] = {}
_NO_OVERRIDES: Mapping[Override, Array] = {}


class Entities(NamedTuple):
    """What one request asks about.

    How many rows, where what is taken out stands among the inputs, the ids as keys hold them (by input; of an entity of several
    keys by the names of all its inputs), fields of the request as (N, k), features that the caller gives himself, and whether he
    wants to know the status of each.
    """

    rows: int
    positions: list[int]
    ids: dict[str, list[bytes]]
    fields: Mapping[str, Array] = _NO_FIELDS
    overrides: Mapping[Override, Array] = _NO_OVERRIDES
    wants_statuses: bool = False


def read_ids(request: ModelInferRequest, name: str, position: int, datatype: str, max_entities: int) -> list[bytes]:
    """The ids of one input as keys hold them. Raises InvalidRequest, and ResourceExhausted for too many."""
    tensor = request.inputs[position]
    shape = list(tensor.shape)
    if tensor.datatype != datatype or len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        what = f"expected {datatype} [N] or [N, 1], got {quoted(tensor.datatype)} {shape[:16]}"
        raise wrong(request, name, what, "INPUT_DATATYPE" if tensor.datatype != datatype else "INPUT_SHAPE")
    _check_count(request, name, shape[0], max_entities)
    ids = _raw_ids(request, name, position, shape[0]) if datatype == "BYTES" else None
    if ids is None:
        ids = read_input(request, position).ravel().tolist()
    if datatype == "INT64":
        return [b"%d" % value for value in ids]  # type: ignore[str-format]  # they are numbers
    for row, entity in enumerate(ids):
        if not 0 < len(entity) <= MAX_ID_BYTES:
            raise _wrong_id(request, name, row, len(entity))
    return ids


def read_field(
    request: ModelInferRequest, name: str, position: int, of: Sized, max_entities: int, *, rows: int | None = None
) -> Array:
    """A field of the request as (N, k). With `rows`, one row stands for all of them. Raises as `read_ids` does."""
    tensor = request.inputs[position]
    shape = list(tensor.shape)
    fits = shape[1:] == list(of.shape) or (not of.shape and shape[1:] == [1])
    if tensor.datatype != of.datatype or not shape or not fits:
        expected = f"[N, {of.shape[0]}]" if of.shape else "[N] or [N, 1]"
        what = f"expected {of.datatype} {expected}, got {quoted(tensor.datatype)} {shape[:16]}"
        raise wrong(request, name, what, "INPUT_DATATYPE" if tensor.datatype != of.datatype else "INPUT_SHAPE")
    if rows is not None and shape[0] not in (1, rows):
        raise wrong(request, name, f"expected {rows} rows, or one for all, got {shape[0]}", "INPUT_ROWS")
    _check_count(request, name, shape[0], max_entities)
    array = read_input(request, position).reshape(shape[0], of.type.width)
    return array if rows is None or shape[0] == rows else np.broadcast_to(array, (rows, of.type.width))


def wrong(request: ModelInferRequest, name: str, what: str, reason: str) -> InvalidRequest:
    """The error about one input."""
    return InvalidRequest(f"model {quoted(request.model_name)}: input {quoted(name)}: {what}", reason=reason)


def _raw_ids(request: ModelInferRequest, name: str, position: int, count: int) -> list[bytes] | None:
    """The usual request has one raw id, which needs no array. None: let the general way read them, or say what is wrong."""
    raws = request.raw_input_contents
    if not raws or request.inputs[position].HasField("contents"):
        return None
    raw = raws[position]  # once: it is copied each time
    if len(raw) > count * (4 + MAX_ID_BYTES):
        _refuse_a_long_one(request, name, raw, count)
    return [raw[4:]] if count == 1 and len(raw) == 4 + int.from_bytes(raw[:4], "little") else None


def _refuse_a_long_one(request: ModelInferRequest, name: str, raw: bytes, count: int) -> None:
    """Raise InvalidRequest for the first id that its length says is too long, before any is copied.

    What is no BYTES tensor at all is left to whoever reads it.
    """
    start = 0
    for row in range(count):
        length = int.from_bytes(raw[start : start + 4], "little")
        start += 4 + length
        if start > len(raw):
            return
        if length > MAX_ID_BYTES:
            raise _wrong_id(request, name, row, length)


def _wrong_id(request: ModelInferRequest, name: str, row: int, length: int) -> InvalidRequest:
    got = f"one of {length} bytes" if length else "an empty one"
    what = f"row {row}: expected an id of 1 to {MAX_ID_BYTES} bytes, got {got}"
    return wrong(request, name, what, "ENTITY_ID")


def _check_count(request: ModelInferRequest, name: str, count: int, max_entities: int) -> None:
    if count > max_entities:
        raise ResourceExhausted(
            f"model {quoted(request.model_name)}: input {quoted(name)}: {count} entities, at most "
            f"{max_entities} are looked up for one request",
            reason="TOO_MANY_ENTITIES",  # not `rejected`: the same call would fail again, everywhere
        )
