"""How far a file has been loaded, kept in Redis beside the rows: a Redis that has lost these has lost the checkpoint too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from redis.asyncio import Redis, RedisCluster

__all__ = ["Checkpoint", "Checkpoints", "digest_of"]

KEPT_S = 7 * 86_400


class Checkpoint(NamedTuple):
    """So many rows of a file are dealt with; those without an event time have this one, in all runs."""

    rows: int
    event_time_us: int
    refused: int = 0


class Checkpoints:
    """The checkpoint of one file for one view and schema; any change of file or schema makes it another."""

    def __init__(
        self,
        client: Redis | RedisCluster,
        prefix: str,
        view: str,
        fingerprint: int,
        digest: str,
        *,
        kept_s: int = KEPT_S,
    ) -> None:
        # No view's name has a dot, so that no entity's key is ever this one.
        self._key = f"{prefix}:.load:{view}:{fingerprint:08x}:{digest}"
        self._client = client
        self._kept_s = kept_s

    async def read(self) -> Checkpoint | None:
        held = await self._client.get(self._key)
        return None if held is None else Checkpoint(*json.loads(held))

    async def keep(self, checkpoint: Checkpoint) -> None:
        await self._client.set(self._key, json.dumps(checkpoint), ex=self._kept_s)

    async def forget(self) -> None:
        await self._client.delete(self._key)


def digest_of(file: Path, observe: Callable[[int], None] = lambda size: None) -> str:
    """Of the file's bytes, all of them: some seconds for a few gigabytes."""
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            digest.update(part)
            observe(len(part))
    return digest.hexdigest()
