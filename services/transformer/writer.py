"""Writing rows: an older one never takes the place of a newer one, whoever writes at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from services.transformer.keys import DEFAULT_PREFIX, entity_text, key_prefix
from services.transformer.row import RowFormat, Value
from services.transformer.views import FeatureView

__all__ = ["FeatureWriter", "PackedRow", "Written"]

# Redis runs a script as one step. Byte 9 to 16 of a row are its event time; a double, Lua's only number, holds microseconds
# exactly until the year 2255. What lies there and is no row of this format is replaced.
SCRIPT = """
local held = redis.call('GETRANGE', KEYS[1], 0, 15)
if #held == 16 and string.sub(held, 1, 3) == 'FR\\1' then
  if struct.unpack('<i8', string.sub(held, 9)) > struct.unpack('<i8', string.sub(ARGV[1], 9, 16)) then return 0 end
end
if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return 1
"""


class PackedRow(NamedTuple):
    """A row and the key that it is for."""

    key: bytes
    row: bytes


class Written(NamedTuple):
    """How many rows were written, and how many were not since what is stored is newer."""

    written: int
    older: int


class FeatureWriter:
    """Writes rows of one view. Writing the same rows again changes nothing; of two with one event time the later call wins.

    `ttl_ms` 0: rows stay until somebody deletes them.
    """

    def __init__(
        self, client: Redis, name: str, view: FeatureView, *, prefix: str = DEFAULT_PREFIX, ttl_ms: int = 0
    ) -> None:
        self.name = name
        self.view = view
        self.format = RowFormat(view.columns)
        self._client = client
        self._prefix = key_prefix(prefix, name)
        self._ttl = str(ttl_ms)

    def pack(self, entity: bytes | str | int, values: Sequence[Value], event_time_us: int) -> PackedRow:
        """A row to write, its values in the order of the view. Raises ValueError saying what does not fit."""
        if isinstance(entity, int) is not (self.view.entity.type == "int"):
            raise ValueError(f"entity {entity!r}: the view's ids are of type {self.view.entity.type}")
        return PackedRow(self._prefix + entity_text(entity), self.format.pack(values, event_time_us))

    async def write(self, rows: Iterable[PackedRow]) -> Written:
        """Write a batch in one round trip; a few hundred rows are a good one. Raises redis-py's errors.

        After an error some of the rows may be written: write the batch again.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            sha = await self._client.script_load(SCRIPT)  # again for each batch: a restarted server has forgotten it
            for key, row in rows:
                pipe.evalsha(sha, 1, key, row, self._ttl)
            results = await pipe.execute()
        written = sum(results)
        return Written(written, len(results) - written)
