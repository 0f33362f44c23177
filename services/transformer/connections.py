"""Connections to Redis, one round trip at a time each.

redis-py's own client costs twice as much per command as its connections do (60 against 25 µs of CPU for an MGET of one key,
redis-py 8.1 with hiredis 3.5 on uvloop): pool, retries and its observability are in between. Here is what a lookup needs of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected

from services.transformer.config import RedisConfig

__all__ = ["Connections", "Wait", "connection_options"]

CONNECT_S = 2.0  # names, TLS and a password may take many times what a lookup may

Command = Sequence[bytes | str]


@dataclass
class Wait:
    """What `ask` tells while it goes on: how long it stood in the queue while all connections served others."""

    seconds: float = 0.0


def connection_options(config: RedisConfig) -> dict[str, Any]:
    """What redis-py is to be told about every connection of ours: no retries, since each would be paid out of a deadline."""
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,  # whoever asks has a deadline and cancels
        "protocol": 2,  # one round trip less to connect, and nothing of RESP3 is needed
        "client_name": "infermesh-transformer",
    }
    if password := config.password.get_secret_value():
        options["password"] = password
    return options


class Connections:
    """At most `config.connections` of them, made when they are needed and kept. Who comes when all are busy waits for its turn.

    `ask` may be cancelled: its connection is dropped, since the answer that is still under way would be taken for the next one.
    A connection that is being made is not: it takes longer than a lookup may, and whoever comes next finds it made.
    """

    def __init__(self, config: RedisConfig) -> None:
        # A pool of redis-py that makes connections (TLS, passwords, addresses) and lends none.
        self._make: Callable[[], Any] = ConnectionPool.from_url(
            config.url, **connection_options(config)
        ).make_connection
        self._bound = config.connections
        self._idle: list[Any] = []
        self._open = 0  # idle, busy, and being made
        self._making: set[asyncio.Task[None]] = set()
        self._waiting: OrderedDict[asyncio.Future[tuple[Any, bool]], None] = OrderedDict()  # who waits longest is first

    async def ask(self, *commands: Command, wait: Wait | None = None) -> list[Any]:
        """The replies to some commands that are sent in one write. Raises redis-py's errors, and those of the operating system.

        A kept connection may have been cut since it was used last, by a server that was restarted: that is found out now, and
        the commands are sent once more on another one. They must be safe to repeat.
        """
        again = True
        while True:
            connection, kept = await self._take(wait)
            try:
                replies = await _round_trip(connection, commands)
            except BaseException as error:
                await self._drop(connection)
                if not (again and kept and isinstance(error, (Disconnected, OSError))):
                    raise
                again = False
                await self._drop_idle()  # they are of the same age
            else:
                self._give(connection, kept=True)
                return replies

    async def close(self) -> None:
        """Close what is idle and end what is being made; nobody may ask any more."""
        if making := set(self._making):
            for task in making:
                task.cancel()
            await asyncio.wait(making)
        await self._drop_idle()

    async def _take(self, wait: Wait | None) -> tuple[Any, bool]:
        """A connection, and whether it has been kept: then it may have been cut meanwhile."""
        if self._idle:
            return self._idle.pop(), True
        busy = self._open > len(self._making)
        started = time.monotonic()
        turn: asyncio.Future[tuple[Any, bool]] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        self._make_some()
        try:
            return await turn
        except asyncio.CancelledError:
            self._waiting.pop(turn, None)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give(*turn.result())  # it came just as we left: it is the next one's
            raise
        finally:
            if busy and wait is not None:
                wait.seconds += time.monotonic() - started

    def _give(self, connection: Any, kept: bool) -> None:
        """Hand a connection to whoever waits longest, or keep it."""
        if (turn := self._next()) is not None:
            turn.set_result((connection, kept))
        else:
            self._idle.append(connection)

    def _next(self) -> asyncio.Future[tuple[Any, bool]] | None:
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                return turn
        return None

    def _make_some(self) -> None:
        """Have a connection made for each that waits, as far as there is room."""
        while self._open < self._bound and len(self._making) < len(self._waiting):
            self._open += 1
            task = asyncio.ensure_future(self._made())
            self._making.add(task)

    async def _made(self) -> None:
        """Make a connection, for whoever waits longest by then; its failure is told to one alone, the others have theirs made."""
        task = asyncio.current_task()
        assert task is not None
        connection = self._make()
        failure: Exception | None = None
        try:
            await _connected(connection)
        except Exception as error:  # whatever it is, it belongs to who waits
            failure = error
        except asyncio.CancelledError:
            self._making.discard(task)
            await self._drop(connection)
            raise
        self._making.discard(task)
        if failure is None:
            self._give(connection, kept=False)
            return
        if (turn := self._next()) is not None:
            turn.set_exception(failure)
        await self._drop(connection)

    async def _drop(self, connection: Any) -> None:
        self._open -= 1
        self._make_some()
        await connection.disconnect(nowait=True)

    async def _drop_idle(self) -> None:
        dropped, self._idle = self._idle, []
        for connection in dropped:
            await self._drop(connection)


async def _connected(connection: Any) -> None:
    try:
        async with asyncio.timeout(CONNECT_S):
            await connection.connect()
    except TimeoutError:
        raise Disconnected(f"no connection within {CONNECT_S:g} s") from None
    except RuntimeError as error:
        raise Disconnected(str(error)) from error


async def _round_trip(connection: Any, commands: Sequence[Command]) -> list[Any]:
    try:
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        return [await connection.read_response() for _ in commands]
    except RuntimeError as error:  # uvloop's word for a connection that was reset while it was idle
        raise Disconnected(str(error)) from error
