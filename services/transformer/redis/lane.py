"""A connection to one server, made when it is asked for, and made anew when it is lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from services.transformer.redis.connection import Connection
from services.transformer.redis.errors import Lost, Unanswered
from services.transformer.redis.request import Request

__all__ = ["Lane", "Open"]

FIRST_PAUSE_S = 0.05  # after a connection could not be made; then twice as long each time
LAST_PAUSE_S = 2.0
SENDS = 2  # a read that was under way when a connection was lost is asked once more

Open = Callable[[Connection], Awaitable[Any]]


class Lane:
    """Many callers' requests on one connection.

    What is asked while a connection is being made goes out when it is there; when it can't be made all are told at once, and so
    is who asks within the pause that follows, which doubles each time. A connection that is lost is made anew for what was
    under way on it and is still wanted. `tell_lost` is told whenever a connection is lost, and before anything else happens;
    `tell_made` whenever there is one, before anything is asked on it.
    """

    def __init__(
        self,
        open_: Open,
        connect_s: float,
        *,
        tell_lost: Callable[[], None] = lambda: None,
        tell_made: Callable[[], None] = lambda: None,
        pushed: Callable[[list[Any]], None] = lambda push: None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._open, self._connect_s = open_, connect_s
        self._tell_lost, self._tell_made, self._pushed = tell_lost, tell_made, pushed
        self._clock, self._draw = clock, draw
        self.connection: Connection | None = None
        self._pending: list[Request] = []
        self._pending_weight = 0
        self._making: asyncio.Task[None] | None = None
        self._pause_s = 0.0
        self._retry_at = 0.0
        self.why = ""
        """Why there is no connection, as it was last time."""
        self._is_closed = False

    @property
    def load(self) -> int:
        """Keys and commands that are under way, or wait for the connection."""
        return self.connection.load if self.connection is not None else self._pending_weight

    @property
    def can_be_made(self) -> bool:
        """Whether a connection may be tried now."""
        return self.connection is None and self._making is None and self._clock() >= self._retry_at

    def send(self, request: Request, *, urgent: bool = False) -> None:
        """Ask now or as soon as there is a connection; `urgent` does not heed the pause. Raises Lost."""
        if self.connection is not None:
            self.connection.send(request)
            return
        if self._making is None:
            if self._is_closed or (not urgent and self._clock() < self._retry_at):
                raise Lost(self.why or "the client is closed")
            self.make()
        self._pending.append(request)
        self._pending_weight += request.weight

    def make(self) -> None:
        """Begin to make the connection."""
        self._making = asyncio.ensure_future(self._made())

    def hang_up_if_silent(self, limit_s: float) -> None:
        """End a connection on which nothing came for so long although something was asked."""
        if self.connection is not None and self.connection.silent_s() > limit_s:
            self.connection.abort()

    async def close(self) -> None:
        """End the connection; who waits is told."""
        self._is_closed = True
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait({self._making})
        if (connection := self.connection) is not None:
            connection.abort()
            gone = asyncio.get_running_loop().create_future()
            lost = connection.lost

            def told(connection: Connection, left: list[Request]) -> None:
                lost(connection, left)
                if not gone.done():
                    gone.set_result(None)

            connection.lost = told
            await gone

    async def _made(self) -> None:
        connection = Connection(lost=self._lost, pushed=self._pushed, clock=self._clock)
        try:
            async with asyncio.timeout(self._connect_s):
                await self._open(connection)
            if not connection.is_open:  # lost in the moment between
                raise Lost("it hung up")
        except asyncio.CancelledError:
            connection.abort()
            self._fail_pending("the client is closed")
            raise
        except Exception as error:  # whatever it is, it belongs to who waits
            connection.abort()
            self._making = None
            self.why = _reason(error, self._connect_s)
            self._pause_s = min(LAST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
            self._retry_at = self._clock() + self._pause_s * (0.5 + self._draw() / 2)
            self._fail_pending(self.why)
            return
        self._making = None
        self._pause_s, self.why = 0.0, ""
        self.connection = connection
        self._tell_made()
        pending, self._pending, self._pending_weight = self._pending, [], 0
        for request in pending:
            connection.send(request)

    def _fail_pending(self, why: str) -> None:
        pending, self._pending, self._pending_weight = self._pending, [], 0
        for request in pending:
            request.failed(Lost(why))

    def _lost(self, connection: Connection, left: list[Request]) -> None:
        self.connection = None
        self._tell_lost()
        for request in left:
            if self._is_closed or request.sends >= SENDS or not request.is_wanted:
                request.failed(Lost("the client is closed" if self._is_closed else "the connection was lost"))
                continue
            try:
                self.send(request)
            except Lost as error:
                request.failed(error)


def _reason(error: Exception, connect_s: float) -> str:
    if isinstance(error, Unanswered):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"no connection within {connect_s:g} s"
    return f"no connection: {error or type(error).__name__}"[:256]
