"""HTTP/2 by hand: what no gRPC library would send, and what none would leave unread."""

from __future__ import annotations

import socket
import struct
from collections import Counter, deque
from collections.abc import Sequence

import hpack

__all__ = ["DATA", "FRAME_HEAD", "HEADERS", "RST_STREAM", "Frame", "RawCaller", "frame", "packed"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
NO_TABLE, WINDOW = 1, 4  # settings: of the table of headers that were sent before, and of what may be sent unread
MAX_FRAME = 16_384
FRAME_HEAD = 9
CANCEL = 8
INFER = "/inference.GRPCInferenceService/ModelInfer"

Frame = tuple[int, int, int, bytes]  # type, flags, stream, content
Pairs = Sequence[tuple[str | bytes, str | bytes]]


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """One frame as it goes over the wire."""
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def packed(pairs: Pairs) -> bytes:
    """Headers as literals that are not remembered (RFC 7541, 6.2.2), whatever bytes are in them."""
    out = bytearray()
    for name, value in pairs:
        out += b"\x00"
        for text in (name, value):
            data = text.encode() if isinstance(text, str) else text
            out += _int(len(data)) + data
    return bytes(out)


def _headers(content: bytes) -> dict[str, str]:
    """The headers of a frame; no table is kept from one to the next, which the settings ask for."""
    decoded = hpack.Decoder().decode(content, raw=True)
    return {name.decode(): value.decode("utf-8", "replace") for name, value in decoded}


class RawCaller:
    """A connection of a caller who takes `window` bytes of each answer before it is asked again, which it is not.

    It answers pings, as a caller does that lives, and reads what comes in `status` alone. A context manager.
    """

    def __init__(self, address: str, *, window: int = 65_535) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._buffer = b""
        self._kept: deque[Frame] = deque()
        self._next = 1
        settings = struct.pack(">HIHI", NO_TABLE, 0, WINDOW, window)
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, ACK, 0))

    def call(self, message: bytes, metadata: Pairs = (), *, path: str = INFER, reset: bool = False) -> int:
        """Send a whole request and return its stream; `reset`: and take it back with the same packet."""
        stream, data = self.begin(message, metadata, path=path)
        if reset:
            data += frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
        self._socket.sendall(data)
        return stream

    def begin(self, message: bytes, metadata: Pairs = (), *, path: str = INFER) -> tuple[int, bytes]:
        """The bytes of a whole request on a new stream, which is for the caller to `send`."""
        stream, self._next = self._next, self._next + 2
        head: list[tuple[str | bytes, str | bytes]] = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "gateway"),
            ("te", "trailers"), ("content-type", "application/grpc"),
        ]  # fmt: skip
        block = packed([*head, *metadata])
        parts = [block[at : at + MAX_FRAME] for at in range(0, len(block), MAX_FRAME)]
        data = frame(HEADERS, 0 if len(parts) > 1 else END_HEADERS, stream, parts[0])
        for at, part in enumerate(parts[1:], 2):
            data += frame(CONTINUATION, END_HEADERS if at == len(parts) else 0, stream, part)
        body = b"\x00" + struct.pack(">I", len(message)) + message
        return stream, data + frame(DATA, END_STREAM, stream, body)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def status(self, stream: int) -> int | None:
        """The gRPC status of a call; minus the code of a stream that was reset; None when the connection has ended."""
        while (got := self.read()) is not None:
            kind, flags, of, content = got
            if of != stream:
                continue
            if kind == RST_STREAM:
                return -int.from_bytes(content, "big")
            if kind == HEADERS and flags & END_STREAM:
                return int(_headers(content)["grpc-status"])
        return None

    def allow(self, stream: int, count: int) -> None:
        """Let the other side send so many more bytes of this answer."""
        more = struct.pack(">I", count)
        self._socket.sendall(frame(WINDOW_UPDATE, 0, stream, more) + frame(WINDOW_UPDATE, 0, 0, more))

    def data(self, stream: int, count: int = 0) -> bytes:
        """So many bytes of an answer, or more; 0: all that come before its end."""
        found = b""
        while not count or len(found) < count:
            got = self.read()
            assert got is not None, "the connection has ended"
            kind, flags, of, content = got
            if of == stream and kind == DATA:
                found += content
            elif of == stream and (flags & END_STREAM or kind == RST_STREAM):
                break
        return found

    def ends(self, count: int) -> int:
        """Read until so many calls have ended, or the connection has, and say how many did."""
        ended = 0
        while ended < count and (got := self.read()) is not None:
            kind, flags, _, content = got
            ended += kind == RST_STREAM or (kind == HEADERS and bool(flags & END_STREAM))
            if kind == DATA and content:
                self._socket.sendall(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(content))))
        return ended

    def statuses(self, count: int) -> Counter[int]:
        """How so many calls have ended, by gRPC's status or minus the code of the reset; fewer where the connection has."""
        found: dict[int, int] = {}
        while len(found) < count and (got := self.read()) is not None:
            kind, flags, of, content = got
            if kind == RST_STREAM:
                found.setdefault(of, -int.from_bytes(content, "big"))
            elif kind == HEADERS and flags & END_STREAM:
                found.setdefault(of, int(_headers(content)["grpc-status"]))
            elif kind == DATA and content:
                self._socket.sendall(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(content))))
        return Counter(found.values())

    def settle(self) -> None:
        """Return when the other side has read what was sent to it: it answers pings in their turn. What comes is kept."""
        self._socket.sendall(frame(PING, 0, 0, bytes(8)))
        while (got := self._any()) is not None and not (got[0] == PING and got[1] & ACK):
            self._kept.append(got)

    def read(self) -> Frame | None:
        """The next frame that is about a call, or the last word about the connection; None at its end."""
        while (got := self._kept.popleft() if self._kept else self._any()) is not None:
            if got[0] not in (PING, SETTINGS, WINDOW_UPDATE, GOAWAY):
                return got
        return None

    def _any(self) -> Frame | None:
        """The next frame, whatever it is about."""
        try:
            head = self._take(FRAME_HEAD)
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            content = self._take(int.from_bytes(head[:3], "big"))
        except (EOFError, ConnectionError):
            return None
        if kind == PING and not flags & ACK:
            self._socket.sendall(frame(PING, ACK, 0, content))
        return kind, flags, stream, content

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> RawCaller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            some = self._socket.recv(1 << 16)
            if not some:
                raise EOFError
            self._buffer += some
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


def _int(value: int) -> bytes:
    if value < 127:
        return bytes([value])
    out, value = bytearray([127]), value - 127
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
