"""Rows that are kept in this process until Redis says that they have changed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from services.transformer.redis.request import Command, Request
from services.transformer.redis.settings import CacheConfig, RedisConfig

__all__ = ["Cache", "CachedClient"]

ENTRY_BYTES = 250  # of an entry beside key and value: two objects' heads, a tuple, a place in a table, a float

_NOTHING: Any = object()


class Cache:
    """Values by key, bounded by bytes; who was not used for longest goes first. Each lives for `max_age` at most."""

    def __init__(self, config: CacheConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[bytes | None, float]] = OrderedDict()
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, keys: Sequence[bytes], found: dict[bytes, bytes | None]) -> list[bytes]:
        """Put what is known into `found`; the keys that are not known."""
        now = self._clock()
        entries = self._entries
        missing = []
        for key in keys:
            entry = entries.get(key)
            if entry is None:
                missing.append(key)
            elif entry[1] <= now:
                self._drop(key)
                missing.append(key)
            else:
                found[key] = entry[0]
                entries.move_to_end(key)
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        return missing

    def put(self, key: bytes, value: bytes | None) -> None:
        """Keep what a key holds."""
        self._drop(key)
        if value is None and not self._config.negative:
            return
        size = _size(key, value)
        if size > self._config.max_bytes:
            return
        self._entries[key] = (value, self._clock() + self._config.max_age)
        self.size_bytes += size
        while self.size_bytes > self._config.max_bytes:
            oldest, (held, _) = self._entries.popitem(last=False)
            self.size_bytes -= _size(oldest, held)

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= _size(key, entry[0])

    def changed(self, keys: Sequence[bytes]) -> None:
        """Forget keys that have been written."""
        for key in keys:
            self._drop(key)

    def flush(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size_bytes = 0


class CachedClient:
    """Answers from the cache what Redis has promised to tell the changes of, and asks for the rest.

    A value is kept in the order of what comes on its connection: when Redis tells of a change after it, it goes again, however
    late the caller wakes who has asked. Two connections never disagree for the worse: each value came on a connection that is
    told of its change. Whatever ends a connection, or lets a probe go without an answer, empties the cache.
    """

    def __init__(
        self,
        config: RedisConfig,
        kind: Callable[..., Any],
        *,
        failed: Callable[[str], None] = lambda why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cache = Cache(config.cache, clock)
        self._client = kind(
            config, failed=failed, tell=self._landed, tell_lost=self.cache.flush, pushed=self._pushed
        )  # SingleClient or ClusterClient

    @property
    def is_up(self) -> bool:
        return bool(self._client.is_up)

    async def ask(self, *commands: Command, deadline_s: float, counts: bool = True) -> list[Any]:
        """Not from the cache: what a command reads is not known here."""
        replies: list[Any] = await self._client.ask(*commands, deadline_s=deadline_s, counts=counts)
        return replies

    async def mget(self, keys: Sequence[bytes], *, deadline_s: float, counts: bool = True) -> list[bytes | None]:
        found: dict[bytes, bytes | None] = {}
        missing = self.cache.take(keys, found)
        if missing:
            values = await self._client.mget(missing, deadline_s=deadline_s, counts=counts)
            if len(missing) == len(keys):
                return list(values)
            found.update(zip(missing, values, strict=True))
        return [found[key] for key in keys]

    async def probe(self) -> bool:
        return bool(await self._client.probe())

    async def close(self) -> None:
        await self._client.close()

    def _landed(self, request: Request) -> None:
        if request.is_mget:
            keys: Sequence[bytes | None] = request.items
        else:
            keys = [item[1] if item[0] == b"GET" else None for item in request.items]
        for key, value in zip(keys, request.answers(), strict=True):
            if key is not None and (value is None or type(value) is bytes):
                self.cache.put(key, value)

    def _pushed(self, push: list[Any]) -> None:
        if push[0] != b"invalidate":
            return
        if push[1] is None:  # all of them: a server that was emptied
            self.cache.flush()
        else:
            self.cache.changed(push[1])


def _size(key: bytes, value: bytes | None) -> int:
    return len(key) + len(value or b"") + ENTRY_BYTES
