"""As much of HTTP/2 (RFC 9113) as a load and a canned backend need: one connection's frames, windows and header blocks.

A server that takes 60 µs for a call can't be measured with a client that takes 120: gRPC's own would be the bottleneck.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Mapping

import hpack

__all__ = [
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "HEADERS",
    "PREFACE",
    "RST_STREAM",
    "Blocks",
    "Repeated",
    "Wire",
    "frame",
    "messages",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
TABLE_SIZE, PUSH, STREAM_WINDOW, FRAME_SIZE = 1, 2, 4, 5  # settings
GRANTED = 2**31 - 1  # the largest window
FIRST_WINDOW = 65_535
_HEAD = struct.Struct(">HBBBI")  # 24 bits of length, kind, flags, stream
_SETTING = struct.Struct(">HI")
_NUMBER = struct.Struct(">I")

Event = tuple[int, int, bytes, int]
"""Kind (HEADERS, DATA, RST_STREAM), stream, payload, and whether the stream ends with it."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return _HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def messages(message: bytes) -> bytes:
    """A gRPC message, not compressed, as it lies in DATA frames."""
    return b"\0" + _NUMBER.pack(len(message)) + message


class Wire:
    """The connection's own business: splits what comes into frames, answers SETTINGS and PING, keeps both windows."""

    def __init__(self) -> None:
        self.settled = False  # the other side's settings are here
        self.stream_window, self.frame_bytes, self.table_bytes = FIRST_WINDOW, 16_384, 4096
        self._window = FIRST_WINDOW
        self._rest = b""
        self._taken = 0
        self._waiting: deque[tuple[int, bytes]] = deque()
        own = _SETTING.pack(PUSH, 0) + _SETTING.pack(STREAM_WINDOW, GRANTED)
        grant = _NUMBER.pack(GRANTED - FIRST_WINDOW)
        self._out = [frame(SETTINGS, 0, 0, own), frame(WINDOW_UPDATE, 0, 0, grant)]

    def received(self, data: bytes) -> list[Event]:
        """What came of streams. Raises ConnectionError when the other side ends the connection."""
        buffer = self._rest + data if self._rest else data
        events: list[Event] = []
        at, end = 0, len(buffer)
        while end - at >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            stop = at + _HEAD.size + (high << 8 | low)
            if stop > end:
                break
            payload = buffer[at + _HEAD.size : stop]
            at = stop
            if kind in (HEADERS, DATA):
                if flags & (PADDED | PRIORITY) or (kind == HEADERS and not flags & END_HEADERS):
                    raise ConnectionError(f"a frame of kind {kind} with flags {flags:#x}, which nobody sent so far")
                self._taken += len(payload)
                events.append((kind, stream, payload, flags & END_STREAM))
            elif kind == RST_STREAM:
                events.append((kind, stream, payload, END_STREAM))
            else:
                self._control(kind, flags, stream, payload)
        self._rest = buffer[at:]
        if self._taken > GRANTED // 2:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._taken)))
            self._taken = 0
        return events

    def send(self, size: int, frames: bytes) -> None:
        """Frames with DATA of this size, when the connection's window lets them; in the order of these calls."""
        self._waiting.append((size, frames))
        self._flush()

    def to_send(self) -> bytes:
        """What is to be written now."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _flush(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._window:
            size, frames = self._waiting.popleft()
            self._window -= size
            self._out.append(frames)

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            told = dict(_SETTING.iter_unpack(payload))
            self.stream_window = told.get(STREAM_WINDOW, self.stream_window)
            self.frame_bytes = told.get(FRAME_SIZE, self.frame_bytes)
            self.table_bytes = min(told.get(TABLE_SIZE, 4096), 4096)
            self.settled = True
            self._out.append(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and not stream:
            self._window += _NUMBER.unpack(payload)[0]
            self._flush()
        elif kind == GOAWAY:
            raise ConnectionError(f"GOAWAY: {payload[4:].hex(' ')}")


class Blocks:
    """Reads header blocks; one that has been seen, and changes nothing of the table, costs a look-up."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder()
        self._known: dict[bytes, Mapping[str, str]] = {}

    def read(self, block: bytes) -> Mapping[str, str]:
        """The fields. To be called with every block, in order, since each may change what the next one means."""
        known = self._known.get(block)
        if known is not None:
            return known
        entries = self._decoder.header_table.dynamic_entries
        before = len(entries), entries[0] if entries else None
        fields = dict(self._decoder.decode(block))
        if len(entries) == before[0] and (entries[0] if entries else None) is before[1]:
            self._known[block] = fields
        else:
            self._known.clear()
        return fields


class Repeated:
    """A header block that is sent again and again: with its fields the first time, with their numbers from then on."""

    def __init__(self, fields: Iterable[tuple[str, str]], table_bytes: int) -> None:
        encoder, fields = hpack.Encoder(), [*fields]
        encoder.header_table_size = table_bytes
        self._first, self._next = encoder.encode(fields), encoder.encode(fields)

    def take(self) -> bytes:
        """The block to send now."""
        block, self._first = self._first, self._next
        return block
