"""The gateway's end of the socket to one worker process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

from services.gateway.worker.frames import TICK, FrameReader, head_of

__all__ = ["Link"]


class Link(asyncio.Protocol):
    """Sends frames and hands over those that come. `sent` and `taken` count frames of the worker's own kinds; also what is sent
    when the worker has hung up, which never takes it."""

    def __init__(self, received: Callable[[Link, int, tuple[bytes, ...]], None]) -> None:
        self.sent = 0
        self.taken = 0
        self.lost = False
        self.heard_at = time.monotonic()
        self._received = received
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    @property
    def waiting_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, kind: int, parts: tuple[bytes, ...]) -> None:
        if kind < TICK:
            self.sent += 1
        if self._transport is not None and not self.lost:
            self._transport.write(b"".join((head_of(kind, parts), *parts)))

    def end(self) -> None:
        """Nothing more is sent; what was is."""
        if self._transport is not None and not self.lost:
            self._transport.write_eof()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        for kind, parts in self._reader.read(data):
            self._received(self, kind, parts)

    def eof_received(self) -> bool:
        self.lost = True
        return True

    def connection_lost(self, error: Any) -> None:
        self.lost = True
