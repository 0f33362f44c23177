"""Connections to Redis, one round trip at a time each.

redis-py's own client costs twice as much per command as its connections do (60 against 25 µs of CPU for an MGET of one key,
redis-py 8.1 with hiredis 3.5 on uvloop): pool, retries and its observability are in between. Here is what a lookup needs of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as Disconnected

from services.transformer.config import RedisConfig

__all__ = ["Connections", "connection_options"]

Command = Sequence[bytes | str]


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
    """

    def __init__(self, config: RedisConfig) -> None:
        # A pool of redis-py that makes connections (TLS, passwords, addresses) and lends none.
        self._make: Callable[[], Any] = ConnectionPool.from_url(
            config.url, **connection_options(config)
        ).make_connection
        self._bound = config.connections
        self._idle: list[Any] = []
        self._open = 0  # idle and busy
        self._waiting: deque[asyncio.Future[Any]] = deque()

    async def ask(self, *commands: Command) -> list[Any]:
        """The replies to some commands that are sent in one write. Raises redis-py's errors, and those of the operating system.

        A kept connection may have been cut since it was used last, by a server that was restarted: that is found out now, and
        the commands are sent once more on a new one. They must be safe to repeat.
        """
        connection, kept = await self._take()
        try:
            try:
                replies = await _round_trip(connection, commands)
            except (Disconnected, OSError) as error:
                if not kept or isinstance(error, AuthenticationError):
                    raise
                await self._drop_idle()  # they are of the same age
                await connection.disconnect(nowait=True)
                replies = await _round_trip(connection, commands)
        except BaseException:
            self._give(None)
            await connection.disconnect(nowait=True)
            raise
        self._give(connection)
        return replies

    async def close(self) -> None:
        """Close what is idle; nobody may ask any more."""
        await self._drop_idle()

    async def _take(self) -> tuple[Any, bool]:
        """A connection, and whether it has been used before."""
        if self._idle:
            return self._idle.pop(), True
        if self._open < self._bound:
            self._open += 1
            return self._make(), False
        turn: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            connection = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(turn.result())  # it came just as we left: it is the next one's
            raise
        return (self._make(), False) if connection is None else (connection, True)

    def _give(self, connection: Any) -> None:
        """Hand a connection to whoever waits longest, or keep it; None: the place of one that was dropped."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if connection is None:
            self._open -= 1
        else:
            self._idle.append(connection)

    async def _drop_idle(self) -> None:
        dropped, self._idle = self._idle, []
        self._open -= len(dropped)
        for connection in dropped:
            await connection.disconnect(nowait=True)


async def _round_trip(connection: Any, commands: Sequence[Command]) -> list[Any]:
    if not connection.is_connected:
        await connection.connect()
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    return [await connection.read_response() for _ in commands]
