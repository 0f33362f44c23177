"""redis-py's own client, for writing and looking: what may take its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.transformer.config import RedisConfig

__all__ = ["administration", "wait_for_redis"]

TIMEOUT_S = 10.0
PAUSE_S = 0.2


def administration(config: RedisConfig) -> Redis:
    """A client for the store. It makes no connection before it is used; close it by `aclose`."""
    password = config.password.get_secret_value()
    options: dict[str, Any] = {"password": password} if password else {}
    return Redis.from_url(config.url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, protocol=2, **options)


async def wait_for_redis(client: Redis, wait_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Return as soon as Redis answers; raises redis-py's last error after `wait_s`."""
    end = clock() + wait_s
    while True:
        try:
            await client.ping()
            return
        except (RedisError, OSError):
            if clock() + PAUSE_S > end:
                raise
        await asyncio.sleep(PAUSE_S)
