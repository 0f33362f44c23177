"""What was applied to a store: the views and services that its writers and readers agree upon, with their versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis, RedisCluster

__all__ = ["Applied", "Registry", "StaleRegistry"]

KEPT_VERSIONS = 20

# Writes all entries, or none if one of them is not as it was when the changes were shown to somebody.
SCRIPT = """
for at = 1, #ARGV, 3 do
  if (redis.call('HGET', KEYS[1], ARGV[at]) or '') ~= ARGV[at + 1] then return ARGV[at] end
end
for at = 1, #ARGV, 3 do
  if ARGV[at + 2] == '' then redis.call('HDEL', KEYS[1], ARGV[at])
  else redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2]) end
end
return ''
"""


class StaleRegistry(Exception):
    """Somebody else has applied something in between; nothing was changed."""


@dataclass(frozen=True)
class Applied:
    """An entry: a view or service as it was applied last, and the schemas before."""

    declared: Mapping[str, Any]
    """As the file says it, without what it leaves out."""
    version: int = 1
    """Counts the schemas of a view; a service stays at 1."""
    fingerprint: str = ""
    """Of a view's schema, eight hex digits."""
    columns: tuple[str, ...] = ()
    """Of a view: name, datatype, shape and group of each feature in order, as the fingerprint reads them."""
    at_s: float = 0.0
    by: str = ""
    past: tuple[Mapping[str, Any], ...] = ()
    """Earlier schemas, newest first: version, fingerprint, columns, at_s, by."""
    text: str = field(default="", compare=False)
    """The entry as it was read; empty for one that is new."""

    def followed_by(
        self, declared: Mapping[str, Any], fingerprint: str, columns: tuple[str, ...], at_s: float, by: str
    ) -> Applied:
        """The entry after this one; a new schema counts the version up and keeps this one in mind."""
        if fingerprint == self.fingerprint:
            return Applied(declared, self.version, fingerprint, columns, at_s, by, self.past)
        ours = {
            "version": self.version,
            "fingerprint": self.fingerprint,
            "columns": list(self.columns),
            "at_s": self.at_s,
            "by": self.by,
        }
        return Applied(declared, self.version + 1, fingerprint, columns, at_s, by, (ours, *self.past)[:KEPT_VERSIONS])

    def dumped(self) -> str:
        entry = {name: value for name, value in vars(self).items() if name != "text"}
        return json.dumps(entry, sort_keys=True, default=list)


class Registry:
    """The entries of a store, by `view:<name>` and `service:<model>`: one Redis hash under the mesh's prefix."""

    def __init__(self, client: Redis | RedisCluster, prefix: str) -> None:
        self._key = f"{prefix}:.registry"  # no view's name has a dot
        self._client: Any = client

    async def read(self) -> dict[str, Applied]:
        """Every entry. Raises ValueError for a registry that is none of ours."""
        entries = {}
        for name, text in (await self._client.hgetall(self._key)).items():
            entries[name.decode()] = _loaded(name.decode(), text.decode())
        return entries

    async def read_one(self, name: str) -> Applied | None:
        text = await self._client.hget(self._key, name)
        return None if text is None else _loaded(name, text.decode())

    async def write(self, before: Mapping[str, Applied], after: Mapping[str, Applied | None]) -> None:
        """Put the entries of `after`, and remove those that are None; all or none. Raises StaleRegistry."""
        words: list[str] = []
        for name, entry in after.items():
            words += [name, before[name].text if name in before else "", entry.dumped() if entry is not None else ""]
        if words and (other := await self._client.eval(SCRIPT, 1, self._key, *words)):
            raise StaleRegistry(f"{other.decode()} was applied by somebody else meanwhile; look at the changes again")


def _loaded(name: str, text: str) -> Applied:
    try:
        entry = json.loads(text)
        return Applied(**{**entry, "columns": tuple(entry["columns"]), "past": tuple(entry["past"]), "text": text})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the store's registry has an entry {name!r} that can't be read: {error}") from None
