"""The connection to one address, made anew when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress

import grpc

from infermesh.transport.http2.connection import Connection

__all__ = ["Lane"]

CONNECT_S = 1.0
AGAIN_S = 0.25  # after an attempt that failed


class Lane:
    """Connects when somebody would use it, and makes nobody wait for that: until it `takes` calls there is another way."""

    def __init__(self, address: str, authority: str, *, max_send: int, max_receive: int, keepalive_s: float) -> None:
        self._address = address
        self._authority = authority
        self._max_send = max_send
        self._max_receive = max_receive
        self._keepalive_s = keepalive_s
        self._connection: Connection | None = None
        self._leaving: set[Connection] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._again_at = 0.0
        self._is_closed = False

    def takes(self, size: int) -> bool:
        """Whether a call with a message of that size can be made now."""
        connection = self._connection
        if connection is not None:
            return connection.takes(size) and size <= self._max_send
        if self._connecting is None and not self._is_closed:
            loop = asyncio.get_running_loop()
            if loop.time() >= self._again_at:
                self._connecting = loop.create_task(self._connect())
        return False

    def unary(
        self, path: str, data: bytes, timeout_s: float | None, metadata: Sequence[tuple[str, str]]
    ) -> Awaitable[bytes]:
        """As `Connection.unary`; to be called only when it `takes` so much, and awaited at once."""
        assert self._connection is not None
        return self._connection.unary(path, data, timeout_s, metadata)

    async def leave(self) -> None:
        """Take no more calls, and wait for those that are under way."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.leave()
        while waiting := [each.future for connection in self._leaving for each in connection.calls.values()]:
            await asyncio.wait(waiting)
            await asyncio.sleep(0)  # who waits for them takes them off

    def close(self) -> None:
        """End the calls: they end as those on a channel of grpc's that is closed."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        for each in [*self._leaving, *([self._connection] if self._connection else [])]:
            each.close(grpc.aio.UsageError("Channel is closed."))
        self._leaving.clear()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        host, _, port = self._address.rpartition(":")
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_S):
                    _, connection = await loop.create_connection(
                        self._new, host.removeprefix("[").removesuffix("]"), int(port)
                    )
                self._connection = connection
        finally:
            self._connecting = None
            if self._connection is None:
                self._again_at = loop.time() + AGAIN_S

    def _new(self) -> Connection:
        return Connection(
            self._authority, max_receive=self._max_receive, keepalive_s=self._keepalive_s, ended=self._ended
        )

    def _ended(self, connection: Connection) -> None:
        self._leaving = {each for each in self._leaving if each.calls}
        if connection.calls:
            self._leaving.add(connection)
        if self._connection is connection:
            self._connection = None
