"""Values as Feast stores them: the protobuf messages `feast.types.Value` and `google.protobuf.Timestamp`, read by field number.

A Value is one field, so that its first byte says which kind it is; nothing here needs Feast's package. Source: the protobuf
encoding guide, and the numbers in Feast's protos/feast/types/Value.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from infermesh.tensors import DATATYPES, Array
from services.transformer.row import INT64
from services.transformer.schema import TEXT, Column, Value, unfit

__all__ = ["FeastCodec"]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

# By the field number in Value: its name there, and the wire type of one element.
_KINDS = {
    1: ("bytes", LENGTH),
    2: ("string", LENGTH),
    3: ("int32", VARINT),
    4: ("int64", VARINT),
    5: ("double", FIXED64),
    6: ("float", FIXED32),
    7: ("bool", VARINT),
    8: ("unix_timestamp", VARINT),
}
_LISTS = {number + 10: kind for number, kind in _KINDS.items()}
_NULL = 19
NULL = b"\x98\x01"  # the tag of null_val = 19, a varint
_HELD = {  # what a feature of ours may be in Feast: never a kind whose values it would round
    "FP32": ("float",),
    "FP64": ("double", "float"),
    "FP16": (),
    "BOOL": ("bool",),
    TEXT: ("string", "bytes"),
}
_WHOLE = ("int32", "int64", "unix_timestamp")
_FIXED = {"FP32": (6 << 3 | FIXED32, 5), "FP64": (5 << 3 | FIXED64, 9)}  # first byte, and length of the message


def _plain(tag: int, length: int, raws: Sequence[bytes]) -> bytes | None:
    """Values that are all of one kind and none of them null, without their tags."""
    flat, count = b"".join(raws), len(raws)
    if len(flat) != length * count or max(map(len, raws)) != length:  # so that none is shorter either
        return None
    if flat[::length].count(tag) != count:
        return None
    return np.ndarray(
        (count, length - 1), np.uint8, flat, 1, (length, 1)
    ).tobytes()  # half of what three views of it cost


class FeastCodec:
    """Reads Values; a Value without a field, and one that says null, is null."""

    PLAIN: ClassVar[Mapping[str, Callable[[Sequence[bytes]], bytes | None]]] = {
        datatype: partial(_plain, *fixed) for datatype, fixed in _FIXED.items()
    }

    def is_null(self, raw: bytes) -> bool:
        return not raw or raw.startswith(NULL)

    def value(self, raw: bytes, column: Column) -> Value:
        held = list(_fields(raw))
        if len(held) != 1:
            raise ValueError(f"expected a Value of Feast, got {len(held)} fields")
        number, wire, content = held[0]
        kind, element = (_LISTS if column.shape else _KINDS).get(number, ("", LENGTH))
        if kind not in _HELD.get(column.datatype, _WHOLE):
            shape = list(column.shape) if column.shape else ""
            raise ValueError(f"expected {column.datatype}{shape}, got {_named(number)} of Feast")
        if wire != (LENGTH if column.shape else element):
            raise ValueError(f"field {number} of a Value has wire type {wire}")
        if not column.shape:
            return _fitting(_element(content, kind), column)
        elements = _list(content, kind, element)
        if len(elements) != column.elements:
            raise ValueError(f"expected {column.elements} elements, got {len(elements)}")
        return _fitting(_nested(elements, column.shape), column)

    def values(self, raws: Sequence[bytes | None], datatype: str) -> tuple[Array, Array | None]:
        given = [raw or b"" for raw in raws]
        nulls = None
        if datatype not in ("FP32", "FP64", "FP16"):
            return _varints(given, datatype)
        fixed = _FIXED.get(datatype)
        if fixed is None or set(map(len, given)) != {fixed[1]}:
            nulls = np.fromiter((self.is_null(raw) for raw in given), np.bool_, len(given))
        if fixed is None:
            column = Column("", datatype)
            values: list[Any] = [0 if self.is_null(raw) else self.value(raw, column) for raw in given]
            return np.array(values, DATATYPES[datatype].dtype), nulls
        tag, length = fixed
        if nulls is not None:
            zero = bytes([tag]) + bytes(length - 1)
            given = [zero if null else raw for raw, null in zip(given, nulls.tolist(), strict=True)]
            if set(map(len, given)) != {length}:
                raise ValueError("another kind among them")
        table = np.frombuffer(b"".join(given), np.uint8).reshape(-1, length)
        if (table[:, 0] != tag).any():
            raise ValueError("another kind among them")
        return np.ascontiguousarray(table[:, 1:]).view(DATATYPES[datatype].dtype).ravel(), nulls

    def event_time_us(self, raw: bytes) -> int:
        seconds = nanos = at = 0
        while at < len(raw):  # as `_fields` does it, without what every other kind of message would need
            tag, at = _varint(raw, at)
            if tag not in (1 << 3, 2 << 3):
                raise ValueError("expected a Timestamp of protobuf")
            content, at = _varint(raw, at)
            if tag == 1 << 3:
                seconds = _signed(content)
            else:
                nanos = _signed(content)
        time_us = seconds * 1_000_000 + nanos // 1_000
        if time_us not in INT64:
            raise ValueError(f"{seconds} s since 1970 are out of range")
        return time_us


def _fields(message: bytes) -> Iterator[tuple[int, int, Any]]:
    """Field number, wire type and content (int, or bytes) of each field. Raises ValueError for what is no message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        content: int | bytes
        if wire == VARINT:
            content, at = _varint(message, at)
        else:
            if wire == LENGTH:
                size, at = _varint(message, at)
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
            else:
                raise ValueError(f"wire type {wire} in a message of protobuf")
            content = message[at : at + size]
            at += size
            if len(content) != size:
                raise ValueError("a message of protobuf that is cut off")
        yield number, wire, content


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a message of protobuf that is cut off")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7


def _varints(given: Sequence[bytes], datatype: str) -> tuple[Array, Array | None]:
    """Scalars that are one varint behind their tag, all at once; raises where one is anything else."""
    tags = (7 << 3,) if datatype == "BOOL" else tuple(number << 3 for number in (3, 4, 8))
    nulls = np.fromiter((not raw or raw.startswith(NULL) for raw in given), np.bool_, len(given))
    if nulls.any():
        zero = bytes([tags[0], 0])
        given = [zero if null else raw for raw, null in zip(given, nulls.tolist(), strict=True)]
    lengths = np.fromiter(map(len, given), np.int64, len(given))
    if not lengths.size:
        return np.zeros(0, DATATYPES[datatype].dtype), None
    most = int(lengths.max())
    if int(lengths.min()) < 2 or most > 11:
        raise ValueError("another kind among them")
    table = np.array(given, f"S{most}").view(np.uint8).reshape(-1, most)  # what is cut off at an end are zeros
    content, places = table[:, 1:].astype(np.uint64), np.arange(1, most)
    goes_on = (content >= 0x80) & (places < lengths[:, None])
    if not np.isin(table[:, 0], tags).all() or (goes_on.sum(axis=1) != lengths - 2).any():
        raise ValueError("another kind among them")
    if (goes_on & (places >= lengths[:, None] - 1)).any():
        raise ValueError("a message of protobuf that is cut off")
    shifts = (7 * (places - 1)).astype(np.uint64)
    values = np.bitwise_or.reduce((content & np.uint64(0x7F)) << shifts, axis=1).view(np.int64)
    if datatype == "BOOL":
        return values != 0, nulls if nulls.any() else None
    dtype = DATATYPES[datatype].dtype
    fitting = values.astype(dtype)
    if (fitting.astype(np.int64) != values).any() or (datatype == "UINT64" and (values < 0).any()):
        raise OverflowError(f"out of the range of {datatype}")
    return fitting, nulls if nulls.any() else None


def _signed(varint: int) -> int:
    return varint - (1 << 64) if varint >> 63 else varint


def _element(content: Any, kind: str) -> Any:
    match kind:
        case "float":
            return struct.unpack("<f", content)[0]
        case "double":
            return struct.unpack("<d", content)[0]
        case "bool":
            return bool(content)
        case "string" | "bytes":
            return content
    return _signed(content)


def _list(message: bytes, kind: str, wire: int) -> list[Any]:
    """The elements of a list message: field 1, packed into one or, as parsers must accept, one by one."""
    elements: list[Any] = []
    for number, found, content in _fields(message):
        if number != 1 or found not in (wire, LENGTH):
            raise ValueError(f"field {number} in a list of Feast")
        if found == wire:
            elements.append(_element(content, kind))
        elif wire == VARINT:
            at = 0
            while at < len(content):
                value, at = _varint(content, at)
                elements.append(_element(value, kind))
        else:
            code = "<f" if wire == FIXED32 else "<d"
            try:
                elements += [value for (value,) in struct.iter_unpack(code, content)]
            except struct.error:
                raise ValueError("a list of Feast that is cut off") from None
    return elements


def _nested(elements: list[Any], shape: Sequence[int]) -> list[Any]:
    for size in reversed(shape[1:]):
        elements = [elements[at : at + size] for at in range(0, len(elements), size)]
    return elements


def _fitting(value: Any, column: Column) -> Value:
    if (problem := unfit(value, column.datatype, column.shape)) is not None:
        raise ValueError(problem)
    fitting: Value = value
    return fitting


def _named(number: int) -> str:
    kind = _KINDS.get(number) or _LISTS.get(number)
    return f"{kind[0]}{'_list' if number in _LISTS else ''}_val" if kind else f"field {number}"
