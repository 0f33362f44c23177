"""gRPC's bytes on HTTP/2: frames, timeouts and texts. Pure: nothing waits here, nothing knows who calls.

Source: PROTOCOL-HTTP2.md and statuscodes.md of grpc/grpc.
"""

from __future__ import annotations

import re
import struct

import grpc

__all__ = [
    "MAX_TIMEOUT_DIGITS",
    "Frames",
    "WireError",
    "frame",
    "is_grpc",
    "percent_decoded",
    "percent_encoded",
    "timeout_s",
]

PREFIX = struct.Struct(">BI")  # whether the message is compressed, and its length
PREFIX_BYTES = PREFIX.size
MAX_TIMEOUT_DIGITS = 8
SMALL_BYTES = 4096  # parts below it are gathered: a sender of single bytes must not cost an object for each
GATHERED_BYTES = 1 << 16

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_UNSAFE = re.compile(rb"[^ -$&-~]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


class WireError(Exception):
    """What came is not as the protocol says; the status that the caller is told."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def frame(data: bytes, *, compressed: bool = False) -> bytes:
    """A message as it travels."""
    return PREFIX.pack(compressed, len(data)) + data


class Frames:
    """Takes messages out of a body that comes in parts, copying each message once.

    A message over `limit` bytes is refused when its length is read, before any of it is kept.
    """

    __slots__ = ("_at", "_held", "_parts", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parts: list[bytes | bytearray] = []
        self._at = 0  # bytes of the first part that were taken
        self._held = 0

    def feed(self, part: bytes) -> None:
        """The next part; `take` is to be called until it gives None before the next one is fed."""
        self._held += len(part)
        parts = self._parts
        if len(part) >= SMALL_BYTES or (not parts and len(part) >= PREFIX_BYTES):
            parts.append(part)
        elif parts and type(parts[-1]) is bytearray and len(parts[-1]) < GATHERED_BYTES:
            parts[-1] += part
        elif part:
            parts.append(bytearray(part))

    def take(self) -> tuple[bool, bytes] | None:
        """The next message, and whether it is compressed; None when there is no whole one. Raises WireError."""
        if self._held < PREFIX_BYTES:
            return None
        parts, at = self._parts, self._at
        while len(parts[0]) - at < PREFIX_BYTES:
            parts[:2] = [b"".join((parts[0][at:], parts[1]))]
            at = self._at = 0
        compressed, size = PREFIX.unpack_from(parts[0], at)
        check_prefix(compressed, size, self.limit)
        if self._held < PREFIX_BYTES + size:
            return None
        self._held -= PREFIX_BYTES + size
        return compressed == 1, self._cut(at + PREFIX_BYTES, size)

    def _cut(self, start: int, size: int) -> bytes:
        parts = self._parts
        pieces: list[memoryview] = []
        while True:
            piece = memoryview(parts[0])[start : start + size]
            pieces.append(piece)
            size -= len(piece)
            if size == 0:
                break
            del parts[0]
            start = 0
        self._at = start + len(piece)
        data = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        if self._at == len(parts[0]):
            del parts[0]
            self._at = 0
        return data

    @property
    def is_between(self) -> bool:
        """Whether the body may end here."""
        return self._held == 0


def check_prefix(compressed: int, size: int, limit: int) -> None:
    """Raises WireError for a prefix that no message may have."""
    if compressed > 1:
        raise WireError(grpc.StatusCode.INTERNAL, f"frame: expected 0 or 1 as its first byte, got {compressed}")
    if size > limit:
        text = f"SERVER: Received message larger than max ({size} vs. {limit})"
        raise WireError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)


def timeout_s(value: bytes) -> float:
    """The seconds of a `grpc-timeout`. Raises WireError."""
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > MAX_TIMEOUT_DIGITS:
        shown = value[:20].decode("ascii", "backslashreplace")
        text = f"grpc-timeout: expected up to {MAX_TIMEOUT_DIGITS} digits and one of H M S m u n, got {shown!r}"
        raise WireError(grpc.StatusCode.INTERNAL, text)
    return int(digits) * unit


def is_grpc(content_type: bytes) -> bool:
    """Whether a body of this type is gRPC's frames; gRPC-Web's, for one, are not."""
    return content_type == b"application/grpc" or content_type.startswith((b"application/grpc+", b"application/grpc;"))


def percent_encoded(text: str) -> bytes:
    """A status' text as `grpc-message` carries it."""
    data = text.encode("utf-8", "replace")
    return _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], data) if _UNSAFE.search(data) else data


def percent_decoded(value: bytes) -> str:
    """The text of a `grpc-message`; what is no escape stands for itself."""
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), value).decode("utf-8", "replace")
