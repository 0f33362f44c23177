"""Rows that are kept in this process until Redis says that they have changed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from services.transformer.redis.kept import ENTRY_BYTES, Entries, Kept, entry_bytes
from services.transformer.redis.request import Command, Request
from services.transformer.redis.settings import CacheConfig, RedisConfig

__all__ = ["ENTRY_BYTES", "Cache", "CachedClient"]


class Cache:
    """Values by key, bounded by bytes; who was not used for longest goes first. Each lives for `max_age` at most.

    What is flushed is kept aside for the time in which Redis does not answer; it is never found by `take`.
    """

    def __init__(self, config: CacheConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._entries: Entries = OrderedDict()
        self._kept = Kept(config.keep_when_away, clock)
        self._own_bytes = 0
        self.hits = self.negatives = self.misses = self.kept_hits = 0
        self.invalidations = self.flushes = self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Memory of what is there and of what is kept aside."""
        return self._own_bytes + self._kept.size_bytes

    def take(self, keys: Sequence[bytes], found: dict[bytes, bytes | None]) -> list[bytes]:
        """Put what is known into `found`; the keys that are not known."""
        now = self._clock()
        entries = self._entries
        missing = []
        negatives = 0
        for key in keys:
            entry = entries.get(key)
            if entry is None:
                missing.append(key)
            elif entry[1] <= now:
                self._drop(key)
                missing.append(key)
            else:
                value = found[key] = entry[0]
                entries.move_to_end(key)
                if value is None:
                    negatives += 1
        self.hits += len(keys) - len(missing) - negatives
        self.negatives += negatives
        self.misses += len(missing)
        return missing

    def put(self, key: bytes, value: bytes | None) -> None:
        """Keep what a key holds."""
        self._drop(key)
        if self._kept:
            self._kept.drop(key)
        if value is None and not self._config.negative:
            return
        size = entry_bytes(key, value)
        if size > self._config.max_bytes:
            return
        self._entries[key] = (value, self._clock() + self._config.max_age)
        self._own_bytes += size
        while self.size_bytes > self._config.max_bytes:
            if not self._kept.evict():
                oldest, (held, _) = self._entries.popitem(last=False)
                self._own_bytes -= entry_bytes(oldest, held)
            self.evictions += 1

    def last_known(self, key: bytes) -> bytes | None:
        """For while Redis does not answer: what a key holds, or held when Redis went away; None if that is not known."""
        entry = self._entries.get(key)
        value = entry[0] if entry is not None and entry[1] > self._clock() else self._kept.get(key)
        if value is not None:
            self.kept_hits += 1
        return value

    def changed(self, keys: Sequence[bytes]) -> None:
        """Forget keys that have been written."""
        self.invalidations += len(keys)
        for key in keys:
            self._drop(key)
            self._kept.drop(key)

    def flush(self) -> None:
        """Believe nothing any more; keep it aside."""
        if not self._entries:
            return
        self.flushes += 1  # nothing is copied or freed here, however much it is: the loop has others to serve
        self._kept.add(self._entries, self._own_bytes)
        self._entries = OrderedDict()
        self._own_bytes = 0

    def forget(self) -> None:
        """Forget everything, and what was kept aside too."""
        self.flush()
        self._kept.clear()

    def let_go(self) -> None:
        """Redis answers again: forget what was kept aside."""
        self._kept.clear()

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._own_bytes -= entry_bytes(key, entry[0])


class CachedClient:
    """Answers from the cache what Redis has promised to tell the changes of, and asks for the rest.

    A value is kept in the order of what comes on its connection: when Redis tells of a change after it, it goes again, however
    late the caller wakes who has asked. Two connections never disagree for the worse: each value came on a connection that is
    told of its change. Whatever ends a connection, or lets a probe go without an answer, empties the cache.

    What was in it then is kept aside for who gets no answer, until a new connection gives the first one, or a probe is answered.
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
        self._is_renewed = False
        self._client = kind(
            config,
            failed=failed,
            tell=self._landed,
            tell_lost=self._lost,
            tell_made=self._made,
            pushed=self._pushed,
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

    def last_known(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """For who got no answer: those that are known, or were when Redis went away. They may have changed since."""
        known = ((key, self.cache.last_known(key)) for key in keys)
        return {key: value for key, value in known if value is not None}

    async def probe(self) -> bool:
        answers = bool(await self._client.probe())
        if answers:
            self.cache.let_go()
        return answers

    async def close(self) -> None:
        await self._client.close()

    def _landed(self, request: Request) -> None:
        if request.is_mget:
            keys: Sequence[bytes | None] = request.items
        else:
            keys = [item[1] if item[0] == b"GET" else None for item in request.items]
        answers = request.answers()
        if self._is_renewed and any(value is None or type(value) is bytes for value in answers):
            self._is_renewed = False  # not sooner: a server that loads its data takes connections, and answers nobody
            self.cache.let_go()
        for key, value in zip(keys, answers, strict=True):
            if key is not None and (value is None or type(value) is bytes):
                self.cache.put(key, value)

    def _pushed(self, push: list[Any]) -> None:
        if push[0] != b"invalidate":
            return
        if push[1] is None:  # all of them: a server that was emptied
            self.cache.forget()
        else:
            self.cache.changed(push[1])

    def _lost(self) -> None:
        self._is_renewed = False
        self.cache.flush()

    def _made(self) -> None:
        self._is_renewed = True
