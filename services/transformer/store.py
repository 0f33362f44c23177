"""The feature store as a lookup sees it: keys in, rows out, within a budget or not at all."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from infermesh.deadline import Deadline
from services.transformer.config import RedisConfig
from services.transformer.found import UNANSWERED
from services.transformer.metrics import FeatureMetrics
from services.transformer.redis.cached import CachedClient
from services.transformer.redis.client import Client, make_client
from services.transformer.redis.errors import Away, Late, Overloaded, RedisReplyError, Unanswered, Unfit, explained
from services.transformer.redis.request import Command

__all__ = ["FeatureStore", "Reading", "StoreUnavailable"]

MAX_REFUSED = 16
NOTHING: Mapping[Hashable, Any] = {}

_log = logging.getLogger(__name__)


class StoreUnavailable(Exception):
    """The rows could not be had in time; the text says why. Policies answer now.

    `kept` has for each key the row that was cached, now or when Redis went away, or what others of its servers told, and
    UNANSWERED where nothing is known; None: nothing is of any.
    """

    def __init__(self, why: str, kept: Sequence[bytes | None] | None = None) -> None:
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
        self._refused: set[str] = set()
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
            raise self._unavailable(error, budget, started, self._last_known(keys, error.found)) from None
        lookups = self._lookups  # as `ended` does it, without the call
        lookups.results["ok"] += 1
        lookups.seconds.add(self._clock() - started)
        if asked is keys:
            return values
        by_key = dict(zip(asked, values, strict=True))
        return [by_key[key] for key in keys]

    async def ask(self, commands: Sequence[Command], deadline: Deadline) -> list[Any]:
        """The replies to commands that only read and name their key as their second word, such as HMGET; for layouts that are no
        strings. That a key is of another type is a RedisReplyError in its place."""
        if not commands:
            return []
        reading = self.reading(deadline)
        replies = await reading.ask(commands)
        reading.ended()
        return replies

    def reading(self, deadline: Deadline) -> Reading:
        """Begin a lookup that asks several times. Raises StoreUnavailable for who has no time left."""
        left = deadline.remaining() * self._share
        if left <= 0:
            raise self._too_late()
        return Reading(self, self._client, min(self._timeout, left), is_hurried=left < self._timeout)

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
        self, error: Unanswered, budget: float, started: float, kept: Sequence[bytes | None] | None = None
    ) -> StoreUnavailable:
        """What the policies are told, counted."""
        if isinstance(error, Away | Overloaded):
            self._lookups.ended("refused", 0.0)
            return StoreUnavailable(str(error), kept)
        self._lookups.ended("timeout" if isinstance(error, Late) else "error", self._clock() - started)
        if isinstance(error, Late):
            return StoreUnavailable(f"no answer within {budget * 1000:.3g} ms", kept)
        why = f": {error}" if isinstance(error, Unfit) else ""  # what else it says may hold addresses
        if why and why not in self._refused and len(self._refused) < MAX_REFUSED:
            self._refused.add(why)  # told once: where a user has too few rights no breaker opens that would tell it
            _log.error("Redis refuses a lookup", extra={"reason": str(error)[:256]})
        return StoreUnavailable(f"Redis does not answer as it should{why}", kept)

    def _last_known(self, keys: Sequence[bytes], told: Mapping[Hashable, Any] = NOTHING) -> list[bytes | None] | None:
        cached: Mapping[bytes, Any] = {}
        if self._cached is not None:
            cached = self._cached.last_known(list(dict.fromkeys(keys)))
        if not (cached or told):
            return None
        return [told[key] if key in told else cached.get(key, UNANSWERED) for key in keys]

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


class Reading:
    """One lookup that asks several times, within one budget for all of it; it is counted once.

    What is made of the replies takes of the same time: who makes it asks `is_over` now and then.
    """

    def __init__(self, store: FeatureStore, client: Client, budget_s: float, *, is_hurried: bool) -> None:
        self._store, self._client = store, client
        self._budget_s, self._is_hurried = budget_s, is_hurried
        self._started = store._clock()
        self._is_first = True
        self.failure: StoreUnavailable | None = None
        """Why there are not all replies; the policies answer then."""

    @property
    def is_over(self) -> bool:
        """Whether there is no time left; it is a failure then."""
        if self._left_s() > 0:
            return False
        self._failed(Late())
        return True

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies; UNANSWERED where there is none, and then there is a `failure`. WRONGTYPE is a RedisReplyError.

        That nothing comes in time speaks against Redis where all of the time was for this.
        """
        counts, self._is_first = self._is_first and not self._is_hurried, False
        try:
            replies = await self._client.ask(*commands, deadline_s=self._left_s(), counts=counts)
        except Unanswered as error:
            self._failed(error)
            replies = [error.found.get(tuple(command), UNANSWERED) for command in commands]
        for at, reply in enumerate(replies):
            if type(reply) is RedisReplyError and reply.code != "WRONGTYPE":
                self._failed(Unfit(explained(reply)))
                replies[at] = UNANSWERED
        return replies

    def ended(self) -> None:
        """Everything that is to be asked has been. Raises StoreUnavailable if there was a failure."""
        if self.failure is not None:
            raise self.failure
        self._store._lookups.ended("ok", self._store._clock() - self._started)

    def _failed(self, error: Unanswered) -> None:
        if self.failure is None:
            self.failure = self._store._unavailable(error, self._budget_s, self._started)

    def _left_s(self) -> float:
        return self._started + self._budget_s - self._store._clock()
