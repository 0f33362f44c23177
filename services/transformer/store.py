"""The feature store as a lookup sees it: keys in, rows out, within a budget or not at all."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from infermesh.deadline import Deadline
from services.transformer.config import RedisConfig
from services.transformer.found import UNANSWERED
from services.transformer.metrics import FeatureMetrics
from services.transformer.redis.cached import CachedClient
from services.transformer.redis.client import Client, make_client
from services.transformer.redis.errors import Away, Late, Overloaded, Unanswered, Unfit
from services.transformer.redis.request import Command

__all__ = ["FeatureStore", "StoreUnavailable"]

_log = logging.getLogger(__name__)


class StoreUnavailable(Exception):
    """The rows could not be had in time; the text says why. Policies answer now.

    `kept` has for each key the row that was cached, now or when Redis went away, and UNANSWERED where none was; None: no row was.
    """

    def __init__(self, why: str, kept: Sequence[bytes] | None = None) -> None:
        super().__init__(why)
        self.kept = kept


class FeatureStore:
    """Looks rows up, all keys of a request in one round trip, in at most `timeout` and at most a share of the remaining deadline.

    A store that is away costs nothing per call: after some failures in a row the breaker opens, and `watch` finds out when the
    store is back. Run `watch` as a task; it also tells the metric `redis_up` while there is no traffic.
    """

    def __init__(
        self,
        config: RedisConfig,
        metrics: FeatureMetrics,
        client: Client | None = None,
        clock: Callable[[], float] = time.perf_counter,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._clock, self._draw = clock, draw
        self._timeout, self._share = config.timeout, config.deadline_share
        self._was_up: bool | None = None
        self._lookups = metrics.lookups
        self._client = client or make_client(config, failed=self._failed)
        self._cached = self._client if isinstance(self._client, CachedClient) else None
        if self._cached is not None:
            metrics.cache(self._cached.cache)

    async def lookup(self, keys: Sequence[bytes], deadline: Deadline) -> list[bytes | None]:
        """What each key holds, None where nothing is there. A key that stands twice is asked for once."""
        asked = keys
        if len(keys) != 1:  # as most requests have it, and then there is nothing to look at
            if not keys:
                return []
            unique = dict.fromkeys(keys)
            asked = keys if len(unique) == len(keys) else list(unique)
        timeout = self._timeout
        left = deadline.remaining() * self._share
        budget = timeout if left >= timeout else left
        if budget <= 0:
            raise self._too_late(keys)
        started = self._clock()
        try:
            values = await self._client.mget(asked, deadline_s=budget, counts=left >= timeout)
        except Unanswered as error:
            raise self._unavailable(error, budget, started, keys) from None
        lookups = self._lookups  # as `ended` does it, without the call
        lookups.results["ok"] += 1
        lookups.seconds.add(self._clock() - started)
        if asked is keys:
            return values
        by_key = dict(zip(asked, values, strict=True))
        return [by_key[key] for key in keys]

    async def ask(self, commands: Sequence[Command], deadline: Deadline) -> list[Any]:
        """The replies to commands that only read and name their key as their second word, such as HMGET; for layouts that are no
        strings. An error of one command is a RedisReplyError in its place."""
        if not commands:
            return []
        left = deadline.remaining() * self._share
        budget = min(self._timeout, left)
        if budget <= 0:
            raise self._too_late()
        started = self._clock()
        try:
            replies = await self._client.ask(*commands, deadline_s=budget, counts=left >= self._timeout)
        except Unanswered as error:
            raise self._unavailable(error, budget, started) from None
        self._lookups.ended("ok", self._clock() - started)
        return replies

    async def watch(self) -> None:
        """Ask the store now and then whether it is there, until cancelled."""
        while True:
            try:
                await self.probe()
            except Exception:  # without the watch an open breaker never closes
                _log.exception("asking whether Redis is there failed")
            # Apart from each other: replicas that lost the store at the same time do not come back at the same time.
            await asyncio.sleep(self._config.probe_every * (0.75 + self._draw() / 2))

    async def probe(self) -> bool:
        """Whether the store answers within the timeout of a lookup; the breaker and the metric follow."""
        answers = await self._client.probe()
        if answers:
            self._tell(up=True)
        return answers

    async def close(self) -> None:
        await self._client.close()

    def _too_late(self, keys: Sequence[bytes] = ()) -> StoreUnavailable:
        """Who has no time left would be answered in vain."""
        self._lookups.ended("timeout", 0.0)
        return StoreUnavailable("no answer within 0 ms", self._last_known(keys))

    def _unavailable(
        self, error: Unanswered, budget: float, started: float, keys: Sequence[bytes] = ()
    ) -> StoreUnavailable:
        """What the policies are told, counted."""
        kept = self._last_known(keys)
        if isinstance(error, Away | Overloaded):
            self._lookups.ended("refused", 0.0)
            return StoreUnavailable(str(error), kept)
        self._lookups.ended("timeout" if isinstance(error, Late) else "error", self._clock() - started)
        if isinstance(error, Late):
            return StoreUnavailable(f"no answer within {budget * 1000:.3g} ms", kept)
        why = f": {error}" if isinstance(error, Unfit) else ""  # what else it says may hold addresses
        return StoreUnavailable(f"Redis does not answer as it should{why}", kept)

    def _last_known(self, keys: Sequence[bytes]) -> list[bytes] | None:
        if self._cached is None:
            return None
        known = self._cached.last_known(list(dict.fromkeys(keys)))
        return [known.get(key, UNANSWERED) for key in keys] if known else None

    def _failed(self, why: str) -> None:
        if not self._client.is_up:
            self._tell(up=False, why=why)

    def _tell(self, *, up: bool, why: str = "") -> None:
        if up is self._was_up:
            return
        self._was_up = up
        self._metrics.redis_up(up)
        if up:
            _log.info("Redis answers")
        else:
            _log.error("Redis does not answer; policies do", extra={"reason": why[:256]})
