"""A connection that speaks HTTP/2 as badly as a test wants, and keeps what it is told."""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from e2e_wire import DATA, HEADERS, RST_STREAM, Pairs, frame, packed
from hpack import Decoder

__all__ = [
    "ALL", "CONTINUATION", "END", "INFER", "PING", "SETTINGS", "WINDOW_UPDATE", "WITHIN_S",
    "Attacker", "Outcome", "framed", "head", "numbered", "opened",
]  # fmt: skip

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 4, 6, 7, 8, 9
MAX_FRAME = 16_384
END, ACK, ALL = 1, 1, 4  # flags: of a stream, of a frame that is an answer, of a block of headers
WINDOW = 4  # the setting of what may be sent on a stream unread
WITHIN_S = 30
INFER = "/inference.GRPCInferenceService/ModelInfer"
CALL: Pairs = ((":method", "POST"), (":scheme", "http"), (":authority", "abuse"), ("te", "trailers"))
GRPC: Pairs = (("content-type", "application/grpc"),)


@dataclass
class Outcome:
    """What became of one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    """Those of its head and of its end together."""
    data: int = 0
    reset: int | None = None
    is_over: bool = False

    @property
    def status(self) -> int | None:
        """The status of gRPC, None without one."""
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None


class Attacker:
    """Sends what it is given; reads, answers pings and settings, and gives windows back unless it is told not to."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, window: int, polite: bool
    ) -> None:
        self._reader, self.writer = reader, writer
        self._window, self._polite = window, polite
        self._decoder = Decoder()
        self._news = asyncio.Event()
        self._next = 1
        self.streams: defaultdict[int, Outcome] = defaultdict(Outcome)
        self.seen: defaultdict[int, int] = defaultdict(int)  # frames, by their kinds
        self.room: defaultdict[int, int] = defaultdict(
            int
        )  # bytes that it may send by the windows it was given; 0: in all
        self.room[0] = 65_535
        self.initial = 65_535
        self.settings: dict[int, int] = {}
        self.goaway: int | None = None
        self.is_closed = False

    def begin(self) -> None:
        """The preface and the settings."""
        self.send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", WINDOW, self._window)))

    def stream(self) -> int:
        """The number of a new one."""
        number, self._next = self._next, self._next + 2
        return number

    def send(self, data: bytes) -> None:
        if not self.writer.is_closing():
            self.writer.write(data)

    async def flushed(self) -> None:
        """What was sent is with the kernel, or the connection has ended."""
        try:
            async with asyncio.timeout(WITHIN_S):
                await self.writer.drain()
        except ConnectionError:
            pass

    def call(self, body: bytes = b"", metadata: Pairs = (), *, path: str = INFER, end: bool = True) -> int:
        """A whole call, whose body is taken as it is; without `end` it stays open."""
        stream = self.stream()
        data = frame(HEADERS, ALL, stream, packed(head(path, metadata)))
        self.send(data + frame(DATA, END if end else 0, stream, body))
        for each in (0, stream):
            self.room[each] -= len(body)
        return stream

    async def push(self, stream: int, data: bytes, *, end: bool = False) -> int:
        """Send this on an open stream, no faster than its windows allow; how many bytes went before it was over."""
        at = 0
        async with asyncio.timeout(WITHIN_S):
            while at < len(data) and not self.is_closed and not self.streams[stream].is_over:
                size = min(len(data) - at, MAX_FRAME, self.room[0], self.initial + self.room[stream])
                if size <= 0:
                    self._news.clear()
                    await self._news.wait()
                    continue
                last = end and at + size == len(data)
                self.send(frame(DATA, END if last else 0, stream, data[at : at + size]))
                await self.flushed()
                at += size
                self.room[0] -= size
                self.room[stream] -= size
        return at

    def reset(self, stream: int, code: int = 8) -> None:
        self.send(frame(RST_STREAM, 0, stream, struct.pack(">I", code)))

    async def outcome(self, stream: int) -> Outcome:
        """What became of the stream, when it is over or its connection is."""
        await self.until(stream)
        return self.streams[stream]

    async def until(self, *streams: int) -> None:
        """Until these are over; without any, until the connection is."""
        async with asyncio.timeout(WITHIN_S):
            while not self.is_closed and not (streams and all(self.streams[each].is_over for each in streams)):
                self._news.clear()
                await self._news.wait()

    async def until_seen(self, kind: int, times: int = 1) -> None:
        """Until so many frames of this kind have come."""
        async with asyncio.timeout(WITHIN_S):
            while self.seen[kind] < times:
                assert not self.is_closed, "the connection has ended"
                self._news.clear()
                await self._news.wait()

    async def read(self) -> None:
        """All that comes, until the connection ends."""
        try:
            while True:
                start = await self._reader.readexactly(9)
                content = await self._reader.readexactly(int.from_bytes(start[:3], "big"))
                kind, flags, stream = struct.unpack(">BBI", start[3:])
                self._take(kind, flags, stream, content)
                self.seen[kind] += 1
                self._news.set()
        except (EOFError, ConnectionError):
            self.is_closed = True
            self._news.set()

    def _take(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        told = self.streams[stream] if stream else Outcome()
        if kind == HEADERS:
            told.headers.update((str(name), str(value)) for name, value in self._decoder.decode(content))
        elif kind == DATA:
            told.data += len(content)
            if self._polite and content:
                more = struct.pack(">I", len(content))
                self.send(frame(WINDOW_UPDATE, 0, stream, more) + frame(WINDOW_UPDATE, 0, 0, more))
        elif kind == RST_STREAM:
            told.reset = int.from_bytes(content, "big")
        elif kind == WINDOW_UPDATE:
            self.room[stream] += int.from_bytes(content, "big")
        elif kind == GOAWAY:
            self.goaway = int.from_bytes(content[4:8], "big")
        elif kind in (SETTINGS, PING) and self._polite and not flags & ACK:
            self.send(frame(kind, ACK, 0, content if kind == PING else b""))
        if kind == SETTINGS and not flags & ACK:
            told_settings = dict(struct.iter_unpack(">HI", content))
            self.initial = told_settings.get(WINDOW, self.initial)
            self.settings.update(told_settings)
        if kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & END):
            told.is_over = True


def head(
    path: str = INFER, metadata: Pairs = (), *, replaced: Mapping[str, str | None] | None = None
) -> list[tuple[str | bytes, str | bytes]]:
    """The headers of a call, some of them `replaced` or (None) left out."""
    pairs = [*CALL, (":path", path), *GRPC]
    replaced = replaced or {}
    kept = [(name, replaced.get(str(name), value)) for name, value in pairs]
    pseudo = [(name, value) for name, value in kept if value is not None and str(name).startswith(":")]
    return [
        *pseudo,
        *((name, value) for name, value in kept if value is not None and not str(name).startswith(":")),
        *metadata,
    ]


def framed(message: bytes, *, compressed: int = 0, size: int | None = None) -> bytes:
    """A message of gRPC's; `size`: what it claims to have."""
    return struct.pack(">BI", compressed, len(message) if size is None else size) + message


@asynccontextmanager
async def opened(
    port: int, *, window: int = 65_535, polite: bool = True, reads: bool = True, begins: bool = True
) -> AsyncIterator[Attacker]:
    """A connection; one that does not read leaves all that is sent to it with the kernel."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    attacker = Attacker(reader, writer, window=window, polite=polite)
    reading = asyncio.ensure_future(attacker.read()) if reads else None
    if not reads:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
    if begins:
        attacker.begin()
    try:
        yield attacker
    finally:
        if reading is not None:
            reading.cancel()
        writer.transport.abort()


def numbered(count: int, size: int) -> Sequence[tuple[str, str]]:
    """So many headers, with values of this size."""
    return [(f"x-{each}", "v" * size) for each in range(count)]
