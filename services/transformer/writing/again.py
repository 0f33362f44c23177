"""Trying again while Redis is away, for as long as somebody is ready to wait."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from redis.exceptions import RedisClusterException, RedisError

from services.transformer.writing.faults import in_words, passes

__all__ = ["Again", "NotWritten"]

T = TypeVar("T")


class NotWritten(Exception):
    """Redis did not take the rows; the text says why and, when it was away, for how long it was tried."""


@dataclass
class Again:
    """Calls an attempt until it succeeds, is refused for good, or `patience_s` has passed since its first failure.

    Only for what may be done twice. `observe(why, pause_s)` is told before each pause.
    """

    patience_s: float = 30.0
    first_pause_s: float = 0.05
    longest_pause_s: float = 2.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    draw: Callable[[], float] = random.random
    observe: Callable[[str, float], None] = lambda why, pause_s: None

    async def __call__(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What the attempt returned. Raises NotWritten."""
        end: float | None = None
        ceiling = self.first_pause_s
        while True:
            try:
                return await attempt()
            except (RedisError, RedisClusterException, OSError) as error:
                now = self.clock()
                end = now + self.patience_s if end is None else end
                why = in_words(error)
                if not passes(error):
                    raise NotWritten(why) from error
                # Between half and all of the ceiling, so that many writers do not come back at one moment.
                pause_s = ceiling * (0.5 + self.draw() / 2)
                if now + pause_s > end:
                    raise NotWritten(f"{why} (tried for {self.patience_s:g} s)") from error
            self.observe(why, pause_s)
            await self.sleep(pause_s)
            ceiling = min(2 * ceiling, self.longest_pause_s)
