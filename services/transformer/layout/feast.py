"""The keys and fields of Feast's Redis online store.

Sources: Feast's docs/specs/online_store_format.md and, where that is older than the code, Feast 0.67: an entity's key is its
serialised entity key, version 3, followed by the project; a field's name is murmur3_32 of `view:feature`, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from services.transformer.keys import parted_ids
from services.transformer.layout.feast_values import FeastCodec

__all__ = ["FeastCodec", "FeastKeys", "feature_field", "murmur3_32", "time_field"]

_STRING = 2
_TYPES: dict[str, tuple[int, Callable[[bytes], bytes]]] = {  # numbers of Feast's ValueType.Enum
    "BYTES": (1, bytes),
    "STRING": (_STRING, bytes),
    "INT32": (3, lambda text: struct.pack("<i", _whole_number(text))),
    "INT64": (4, lambda text: struct.pack("<q", _whole_number(text))),
    "UNIX_TIMESTAMP": (8, lambda text: struct.pack("<q", _whole_number(text))),
}
_PAIR = struct.Struct("<II")


class FeastKeys:
    """Names the key of an entity: join keys in the order of their names, each text with its type and length before it.

    `join_keys` are in the order of the ids. An id that its type can't hold names a key that nobody has written.
    """

    def __init__(self, project: str, join_keys: Mapping[str, str]) -> None:
        self._count = len(join_keys)
        self._order = sorted(range(self._count), key=list(join_keys).__getitem__)
        names = [name.encode() for name in sorted(join_keys)]
        self._before = struct.pack("<I", self._count) + b"".join(_PAIR.pack(_STRING, len(n)) + n for n in names)
        self._types = [_TYPES[kind] for kind in join_keys.values()]
        self._project = project.encode()

    def key(self, entity: bytes) -> bytes:
        ids = parted_ids(entity, self._count)
        parts = [self._before]
        for at in self._order:
            number, packed = self._types[at]
            try:
                value = packed(ids[at])
            except (ValueError, struct.error):
                value = b""  # no number is so short
            parts += (_PAIR.pack(number, len(value)), value)
        return b"".join(parts) + self._project


def _whole_number(text: bytes) -> int:
    number = int(text)
    if b"%d" % number != text:  # 07, +7 and 0_7 would be further ids of the entity 7
        raise ValueError(f"{text!r} is another spelling of {number}")
    return number


def feature_field(view: str, feature: str) -> bytes:
    """The field that holds a feature."""
    return struct.pack("<I", murmur3_32(f"{view}:{feature}".encode()))


def time_field(view: str) -> bytes:
    """The field that holds the event time of a view's features."""
    return f"_ts:{view}".encode()


def murmur3_32(data: bytes) -> int:
    """MurmurHash3_x86_32 with seed 0 (Austin Appleby, public domain)."""
    mask = 0xFFFFFFFF
    value = 0
    whole = len(data) // 4 * 4
    for (block,) in struct.iter_unpack("<I", data[:whole]):
        value ^= _scrambled(block)
        value = (value << 13 | value >> 19) & mask
        value = (value * 5 + 0xE6546B64) & mask
    value ^= _scrambled(int.from_bytes(data[whole:], "little")) ^ len(data)
    value = (value ^ value >> 16) * 0x85EBCA6B & mask
    value = (value ^ value >> 13) * 0xC2B2AE35 & mask
    return value ^ value >> 16


def _scrambled(block: int) -> int:
    block = block * 0xCC9E2D51 & 0xFFFFFFFF
    return (block << 15 | block >> 17) * 0x1B873593 & 0xFFFFFFFF
