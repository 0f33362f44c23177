"""Making a connection: TLS, and what is said before the first question."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

from services.transformer.redis.connection import Connection
from services.transformer.redis.errors import Lost, RedisReplyError, Unfit, explained
from services.transformer.redis.request import Command, Request, commands
from services.transformer.redis.settings import RedisConfig
from services.transformer.redis.url import Place, StoreUrl, read_url

__all__ = ["CLIENT_NAME", "Opener"]

CLIENT_NAME = b"infermesh-transformer"


class Opener:
    """Knows who we are to the servers of one store, and how to reach them."""

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self.url: StoreUrl = read_url(config.url)

    async def open(self, connection: Connection, place: Place | None, extra: Sequence[Command] = ()) -> list[Any]:
        """Connect and say who we are, in one round trip; the replies to `extra`, which are asked with it.

        Without a place it is the socket of the address. Raises Unanswered, and the errors of the operating system.
        """
        hello = self._hello()
        await self._connect(connection, place)
        replies = await self._asked(connection, [*hello, *extra])
        for command, reply in zip(hello, replies, strict=False):
            is_name = command[:2] == (b"CLIENT", b"SETNAME")
            if isinstance(reply, RedisReplyError) and not is_name:  # a user may lack the right to a name
                raise Unfit(explained(reply))
        return replies[len(hello) :]

    async def ask_sentinel(self, place: Place, command: Command) -> Any:
        """A Sentinel's reply to one question, by a connection of its own."""
        connection = Connection()
        password = self._config.sentinel_password.get_secret_value().encode()
        hello = [(b"AUTH", password)] if password else []
        try:
            await self._connect(connection, place)
            replies = await self._asked(connection, [*hello, command])
        finally:
            connection.abort()
        for reply in replies:
            if isinstance(reply, RedisReplyError):
                raise Unfit(explained(reply))
        return replies[-1]

    def _hello(self) -> list[Command]:
        """HELLO only where pushes are needed: RESP2's login works with every server and user."""
        config, url = self._config, self.url
        password = config.password.get_secret_value() or url.password
        login = (url.username.encode() or b"default", password.encode())
        words: list[Command] = []
        if config.cache.max_bytes:
            words.append((b"HELLO", b"3", b"AUTH", *login) if password else (b"HELLO", b"3"))
        elif password:
            words.append((b"AUTH", *login) if url.username else (b"AUTH", login[1]))
        if url.db:
            words.append((b"SELECT", b"%d" % url.db))
        if config.cache.max_bytes:
            prefix = (b"BCAST", b"PREFIX", f"{config.key_prefix}:".encode())
            words.append((b"CLIENT", b"TRACKING", b"ON", *(prefix if config.cache.tracking == "broadcast" else ())))
        if config.read_from == "replica":
            words.append((b"READONLY",))  # a primary does not mind
        words.append((b"CLIENT", b"SETNAME", CLIENT_NAME))
        return words

    async def _connect(self, connection: Connection, place: Place | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            if place is None:
                await loop.create_unix_connection(lambda: connection, self.url.path)
                return
            if not self.url.has_tls:
                await loop.create_connection(lambda: connection, *place)
                return
            # Files are read for each connection, so that renewed certificates are taken; the system's roots take 20 ms.
            context = await asyncio.to_thread(_trusting, self._config, dict(self.url.tls))
            await loop.create_connection(lambda: connection, *place, ssl=context, server_hostname=place[0])
        except RuntimeError as error:  # uvloop's word for a connection that is reset in the middle
            raise Lost(str(error)) from error

    async def _asked(self, connection: Connection, words: Sequence[Command]) -> list[Any]:
        request = commands(words)
        waiter = asyncio.get_running_loop().create_future()
        request.waiters.append(waiter)
        lost, connection.lost = connection.lost, _hung_up
        if not connection.is_open:
            raise Lost("it hung up")
        connection.send(request)
        await waiter
        connection.lost = lost
        return request.replies


def _hung_up(_: Connection, left: list[Request]) -> None:
    for each in left:
        each.failed(Lost("it hung up"))


def _trusting(config: RedisConfig, words: dict[str, str]) -> ssl.SSLContext:
    ca = config.ca or words.get("ssl_ca_certs")
    context = ssl.create_default_context(cafile=ca)
    if words.get("ssl_check_hostname", "true").lower() in ("false", "no", "0"):
        context.check_hostname = False
    if words.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = config.certificate or words.get("ssl_certfile")
    if certificate:
        context.load_cert_chain(certificate, config.key or words.get("ssl_keyfile"))
    return context
