"""How frames lie on the socket between the gateway and a worker.

A frame is `u32 size | u8 kind | u8 parts | u32 size of each part | the parts`, little-endian; `size` is of all that follows it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["ANSWER", "ASK", "FAULT", "TICK", "FrameReader", "head_of"]

TICK, ASK, ANSWER, FAULT = 252, 253, 254, 255  # kinds of our own; the others are the worker's

_SIZE = struct.Struct("<I")


def head_of(kind: int, parts: tuple[bytes, ...]) -> bytes:
    """What stands before the parts."""
    count = len(parts)
    sizes = [len(part) for part in parts]
    return struct.pack(f"<IBB{count}I", 2 + 4 * count + sum(sizes), kind, count, *sizes)


class FrameReader:
    """Frames out of a stream of bytes, whatever pieces it comes in."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def read(self, data: bytes) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        """Kind and parts of each frame that is whole by now. The iterator is to be used up before the next piece."""
        self._bytes += data
        view, at = memoryview(self._bytes), 0
        try:
            while len(view) - at >= _SIZE.size:
                end = at + _SIZE.size + _SIZE.unpack_from(view, at)[0]
                if end > len(view):
                    break
                kind, count = view[at + 4], view[at + 5]
                sizes = struct.unpack_from(f"<{count}I", view, at + 6)
                start = at + 6 + 4 * count
                parts = []
                for size in sizes:
                    parts.append(bytes(view[start : start + size]))
                    start += size
                at = end
                yield kind, tuple(parts)
        finally:
            view.release()
            del self._bytes[:at]
