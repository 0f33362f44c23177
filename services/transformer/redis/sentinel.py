"""Who is the primary, as Sentinels say."""

from __future__ import annotations

import asyncio

from services.transformer.redis.errors import Lost, Unanswered
from services.transformer.redis.opening import Opener
from services.transformer.redis.settings import RedisConfig
from services.transformer.redis.url import Place

__all__ = ["Sentinels"]


class Sentinels:
    """Asked one after the other, the one that answered last first (redis.io, "Guidelines for Redis clients with support for Redis
    Sentinel")."""

    def __init__(self, opener: Opener, config: RedisConfig) -> None:
        self._opener = opener
        self._name = opener.url.primary
        self._sentinels = list(opener.url.places)
        self._share_s = config.connect_timeout / (len(self._sentinels) + 1)  # one that hangs leaves time for the others

    async def primary(self) -> Place:
        """Raises Lost with what each Sentinel said."""
        faults = []
        for at, place in enumerate(self._sentinels):
            host, port = place
            try:
                async with asyncio.timeout(self._share_s):
                    question = (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._name.encode())
                    found = await self._opener.ask_sentinel(place, question)
            except (Unanswered, OSError, TimeoutError) as error:
                faults.append(f"{host}:{port}: {error or type(error).__name__}")
                continue
            if found:
                self._sentinels.insert(0, self._sentinels.pop(at))
                return found[0].decode(), int(found[1])
            faults.append(f"{host}:{port} knows no primary {self._name}")
        raise Lost("; ".join(faults))
