"""Frames and header blocks of HTTP/2, as a caller of gRPC writes and reads them. Pure.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), PROTOCOL-HTTP2.md of grpc/grpc.

The peer is told that there is no dynamic table (SETTINGS_HEADER_TABLE_SIZE 0), before it encodes anything. So the bytes of a
header block alone say what is in it, and blocks that are alike, as those of most answers are, are decoded once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum

__all__ = [
    "HEAD",
    "Blocks",
    "Errors",
    "Flags",
    "Kind",
    "ProtocolError",
    "Setting",
    "frame",
    "integer",
    "literal",
    "opening",
]

HEAD = struct.Struct(">HBBBI")  # length (two parts), type, flags, stream
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_KNOWN = 1024  # header blocks that are remembered
MAX_KNOWN_BYTES = 256

Headers = dict[bytes, bytes]

_SETTING = struct.Struct(">HI")


class Kind(IntEnum):
    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flags(IntEnum):
    ACK = 1
    END_STREAM = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY = 32


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5


class Errors(IntEnum):
    NO_ERROR = 0
    PROTOCOL = 1
    FLOW_CONTROL = 3
    FRAME_SIZE = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION = 9
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12


class ProtocolError(Exception):
    """The peer does not keep to HTTP/2: the connection can't be used any more."""

    def __init__(self, text: str, code: Errors = Errors.PROTOCOL) -> None:
        super().__init__(text)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def opening(stream_window: int, connection_window: int) -> bytes:
    """What a connection begins with: the peer may send so much that nobody has read."""
    settings = {Setting.HEADER_TABLE_SIZE: 0, Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: stream_window}
    packed = b"".join(_SETTING.pack(*each) for each in settings.items())
    more = (connection_window - 0xFFFF).to_bytes(4, "big")  # every connection begins with 64 KiB less one
    return PREFACE + frame(Kind.SETTINGS, 0, 0, packed) + frame(Kind.WINDOW_UPDATE, 0, 0, more)


def settings_of(payload: bytes) -> Iterable[tuple[int, int]]:
    """Identifiers and values. Raises ProtocolError."""
    if len(payload) % _SETTING.size:
        raise ProtocolError("SETTINGS of a wrong length", Errors.FRAME_SIZE)
    found: Iterable[tuple[int, int]] = _SETTING.iter_unpack(payload)
    return found


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame, without padding and priority. Raises ProtocolError."""
    begin, end = 0, len(payload)
    if flags & Flags.PADDED:
        begin, end = 1, end - (payload[0] if payload else 0)
    if flags & Flags.PRIORITY:
        begin += 5
    if begin > end:
        raise ProtocolError("a frame with more padding than it has room for")
    return payload[begin:end]


def integer(value: int, bits: int) -> bytes:
    """HPACK's integer with a prefix of so many bits, whose first byte has no other bit set."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    parts = bytearray((most,))
    value -= most
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def literal(name: bytes, value: bytes) -> bytes:
    """A header for nobody's table. Huffman's code would save the network some bytes, and cost us more than all the rest."""
    return b"\x00" + integer(len(name), 7) + name + integer(len(value), 7) + value


class Blocks:
    """Decodes header blocks."""

    def __init__(self) -> None:
        from hpack import Decoder, HPACKError  # not at the top: for those alone who use this way

        self._known: dict[bytes, Headers] = {}
        self._error = HPACKError
        self._decoder = Decoder()
        self._decoder.max_allowed_table_size = 0
        self._decoder.header_table_size = 0

    def decoded(self, block: bytes) -> Headers:
        """The headers, to be read only; of several with one name the values joined by commas. Raises ProtocolError."""
        headers = self._known.get(block)
        if headers is None:
            headers = {}
            try:
                for name, value in self._decoder.decode(block, raw=True):
                    headers[name] = headers[name] + b"," + value if name in headers else value
            except self._error as error:
                raise ProtocolError(f"headers that can't be decoded: {error}", Errors.COMPRESSION) from None
            if len(block) <= MAX_KNOWN_BYTES:
                if len(self._known) >= MAX_KNOWN:  # no two are alike: those of most answers are soon there again
                    self._known.clear()
                self._known[block] = headers
        return headers
