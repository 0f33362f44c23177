"""Where Redis is, and a connection to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import MovedError, RedisError

from services.gateway.limits_config import LimitStoreConfig
from services.gateway.redis_url import read_url

__all__ = ["Address"]

Place = tuple[str, int]  # host and port
Probe = Callable[[Any], Awaitable[None]]


class Address:
    """Finds the server anew for each connection.

    In a cluster the node that has our one slot may be another one than the configured address: it says so. Sentinels are asked
    one after the other, the one that answered last first (redis.io, "Guidelines for Redis clients with support for Redis
    Sentinel"); whether who they name is the primary, the probe sees, which writes.
    """

    def __init__(self, config: LimitStoreConfig) -> None:
        self._config = config
        self._url = read_url(config.url)
        self._sentinels = list(self._url.sentinels)
        self._moved: Place | None = None

    async def connect(self, probe: Probe) -> Any:
        """A connection that has passed the probe. Raises redis-py's errors, those of the system, and TimeoutError."""
        moved, self._moved = self._moved, None  # for one try: after it the configured address is asked again
        place = moved or (await self._primary() if self._sentinels else None)
        replaced = {"host": place[0], "port": place[1]} if place else {}
        try:
            return await self._connected(replaced, probe)
        except MovedError as error:
            if moved is not None:
                raise
            self._moved = (error.host, error.port)
            return await self.connect(probe)

    async def _primary(self) -> Place:
        """Who is the primary now, as the first Sentinel says that answers and knows it."""
        share_s = self._config.connect_timeout / (len(self._sentinels) + 1)  # one that hangs leaves time for the others
        faults = []
        for at, (host, port) in enumerate(self._sentinels):
            try:
                async with asyncio.timeout(share_s):
                    found = await self._ask(host, port)
            except (RedisError, OSError, TimeoutError, RuntimeError) as error:
                faults.append(f"{host}:{port}: {error or type(error).__name__}")
                continue
            if found is not None:
                self._sentinels.insert(0, self._sentinels.pop(at))
                return found
            faults.append(f"{host}:{port} knows no primary {self._url.primary}")
        raise Disconnected("; ".join(faults))

    async def _ask(self, host: str, port: int) -> Place | None:
        answers: list[Any] = []

        async def ask(connection: Any) -> None:
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._url.primary)
            answers.append(await connection.read_response())

        own = {"username": None, "password": self._config.sentinel_password.get_secret_value() or None, "db": 0}
        named = {"host": host, "port": port, "client_name": None}
        connection = await self._connected({**own, **named}, ask)
        await connection.disconnect(nowait=True)
        (answer,) = answers
        return (answer[0].decode(), int(answer[1])) if answer else None

    async def _connected(self, replaced: dict[str, Any], probe: Probe) -> Any:
        connection = self._open(replaced)
        try:
            if (tls := getattr(connection, "ssl_context", None)) is not None:
                # The system's roots take 20 ms to read: too long for a loop that answers calls.
                await asyncio.to_thread(_trust, tls, self._config.ca)
            await connection.connect()
            await probe(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _open(self, replaced: dict[str, Any]) -> Any:
        """A connection of redis-py that is not yet made, which retries nothing and waits for as long as it is let."""
        options: dict[str, Any] = {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,  # who asks has a timer
            "protocol": 2,  # one round trip less to connect
            "client_name": "infermesh-gateway",
        }
        if password := self._config.password.get_secret_value():
            options["password"] = password
        pool = ConnectionPool.from_url(self._url.server, **options)
        pool.connection_kwargs.update(replaced)
        return pool.make_connection()  # type: ignore[no-untyped-call]  # of redis-py


def _trust(tls: Any, ca: Path | None) -> None:
    """Make redis-py's context for this connection. It would trust the system's roots beside the given ones."""
    if ca is None:
        tls.get()
        return
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname, context.verify_mode = tls.check_hostname, tls.cert_reqs
    if tls.certfile:
        context.load_cert_chain(tls.certfile, tls.keyfile, tls.password)
    tls.context = context
