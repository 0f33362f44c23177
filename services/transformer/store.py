"""The feature store as a lookup sees it: keys in, rows out, within a budget or not at all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError

from infermesh.deadline import Deadline
from services.transformer.breaker import Breaker
from services.transformer.config import RedisConfig
from services.transformer.connections import Connections, Wait
from services.transformer.metrics import FeatureMetrics
from services.transformer.patience import Patience

__all__ = ["FeatureStore", "StoreUnavailable"]

KEYS_PER_COMMAND = 1000  # Redis answers one command at a time: a longer one holds up the lookups of everybody else

_log = logging.getLogger(__name__)


class StoreUnavailable(Exception):
    """The rows could not be had in time; the text says why. Policies answer now."""


class FeatureStore:
    """Looks rows up, all keys of a request in one round trip, in at most `timeout` and at most a share of the remaining deadline.

    A store that is away costs nothing per call: after some failures in a row the breaker opens, and `watch` finds out when the
    store is back. Run `watch` as a task; it also tells the metric `redis_up` while there is no traffic.
    """

    def __init__(
        self,
        config: RedisConfig,
        metrics: FeatureMetrics,
        connections: Connections | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._connections = connections or Connections(config)
        self._breaker = Breaker(config.failures)
        self._was_up: bool | None = None

    async def lookup(self, keys: Sequence[bytes], deadline: Deadline) -> list[bytes | None]:
        """What each key holds, None where nothing is there. A key that stands twice is asked for once."""
        if self._breaker.is_open:
            self._metrics.looked_up("refused", 0.0)
            raise StoreUnavailable("Redis is away")
        unique = dict.fromkeys(keys)
        asked = keys if len(unique) == len(keys) else list(unique)
        remaining = deadline.remaining() * self._config.deadline_share
        budget = min(self._config.timeout, remaining)
        started = self._clock()
        patience, wait = Patience(budget), Wait()
        try:
            async with patience:
                values = await self._values(asked, wait)
        except TimeoutError:
            # A caller in a hurry or with much to ask says nothing about the store: else one could open the breaker for all.
            if remaining >= self._config.timeout and len(asked) <= KEYS_PER_COMMAND:
                self._timed_out(patience, wait)
            self._metrics.looked_up("timeout", self._clock() - started)
            raise StoreUnavailable(f"no answer within {budget * 1000:.3g} ms") from None
        except (RedisError, OSError) as error:
            self._failed(str(error))
            self._metrics.looked_up("error", self._clock() - started)
            raise StoreUnavailable("Redis does not answer as it should") from None
        self._breaker.succeeded()
        self._metrics.looked_up("ok", self._clock() - started)
        if asked is keys:
            return values
        by_key = dict(zip(asked, values, strict=True))
        return [by_key[key] for key in keys]

    async def watch(self) -> None:
        """Ask the store now and then whether it is there, until cancelled."""
        while True:
            try:
                await self.probe()
            except Exception as error:  # without the watch an open breaker never closes
                self._failed(repr(error))
                _log.exception("asking whether Redis is there failed")
            await asyncio.sleep(self._config.probe_every)

    async def probe(self) -> bool:
        """Whether the store answers within the timeout of a lookup; the breaker and the metric follow."""
        patience, wait = Patience(self._config.timeout), Wait()
        try:
            async with patience:
                await self._connections.ask((b"PING",), wait=wait)
        except TimeoutError:
            self._timed_out(patience, wait)
        except (RedisError, OSError) as error:
            self._failed(str(error))
        else:
            self._breaker.succeeded()
            self._tell(up=True)
            return True
        return False

    async def close(self) -> None:
        await self._connections.close()

    async def _values(self, keys: Sequence[bytes], wait: Wait) -> list[bytes | None]:
        if not keys:
            return []
        parts = [keys[at : at + KEYS_PER_COMMAND] for at in range(0, len(keys), KEYS_PER_COMMAND)]
        commands = ((b"MGET", *part) for part in parts)
        replies: list[list[bytes | None]] = await self._connections.ask(*commands, wait=wait)
        return replies[0] if len(replies) == 1 else [value for reply in replies for value in reply]

    def _timed_out(self, patience: Patience, wait: Wait) -> None:
        """Count a timeout, unless the time went into a loop that was busy or into the queue for a connection."""
        if not patience.stalled and wait.seconds < self._config.timeout / 2:
            self._failed("no answer in time")

    def _failed(self, why: str) -> None:
        self._breaker.failed()
        if self._breaker.is_open:
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
