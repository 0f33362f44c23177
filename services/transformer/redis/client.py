"""What the feature store asks Redis with, by whatever kind of Redis it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from services.transformer.redis.cached import CachedClient
from services.transformer.redis.cluster import ClusterClient
from services.transformer.redis.request import Command
from services.transformer.redis.settings import RedisConfig
from services.transformer.redis.single import SingleClient
from services.transformer.redis.url import read_url

__all__ = ["Client", "make_client"]


class Client(Protocol):
    """Reads from Redis. Nothing is connected before something is asked; all methods raise Unanswered alone."""

    @property
    def is_up(self) -> bool:
        """Whether all servers would be asked now; those whose breaker is open are not."""
        ...

    async def ask(self, *commands: Command, deadline_s: float, counts: bool = True) -> list[Any]:
        """The replies to commands that only read, in their order; an error is a RedisReplyError among them, not raised.

        Each command names its key as its second word. `deadline_s` is from now; `counts`: no answer in time speaks against
        the server, and not against a caller who had little time.
        """
        ...

    async def mget(self, keys: Sequence[bytes], *, deadline_s: float, counts: bool = True) -> list[bytes | None]:
        """What keys hold that each stand there once; None where there is nothing, or nothing that is a string."""
        ...

    async def probe(self) -> bool:
        """Whether the servers answer; it closes and opens breakers."""
        ...

    async def close(self) -> None:
        """End all connections; nobody may ask any more."""
        ...


def make_client(config: RedisConfig, *, failed: Callable[[str], None] = lambda why: None) -> Client:
    """The client for an address; `failed` is told what speaks against a server."""
    kind = ClusterClient if read_url(config.url).kind == "cluster" else SingleClient
    if not config.cache.max_bytes:
        return kind(config, failed=failed)
    return CachedClient(config, kind, failed=failed)
