"""Rows whose source groups have event times of their own: each group of what is stored is replaced by a newer one alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ResponseError, TryAgainError

from services.transformer.layout.versions import PreviousSchemas
from services.transformer.row import NEVER, RowFormat
from services.transformer.writing.newest import NotARow, PackedRow, Written, may_be_newer

__all__ = ["write_merged"]

# A row is merged here, where its schema is known, and written if nobody has changed what it was merged with; else once more. What
# is compared are digests: rows may be long.
SCRIPT = """
local held = redis.call('GET', KEYS[1])
if (held and redis.sha1hex(held) or '') ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then redis.call('SET', KEYS[1], ARGV[2]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""
ROUNDS = 50  # each of which somebody has won: many writers of one row come to their turn


async def write_merged(
    client: Redis | RedisCluster,
    rows: Iterable[PackedRow],
    layout: RowFormat,
    ttl_ms: int = 0,
    *,
    previous: PreviousSchemas | None = None,
) -> Written:
    """Write a batch in two round trips, more where others write the same rows; a row no group of which is newer counts as older.

    A stored row of a previous schema is read as the present one; one of any other gives way unless it is newer. Raises redis-py's
    errors and NotARow as `write_newest` does.
    """
    batch = list(rows)
    left: list[int] = list(range(len(batch)))
    written = older = 0
    other: list[int] = []
    for _ in range(ROUNDS):
        if not left:
            break
        once = {batch[place].key: place for place in reversed(left)}  # of one key the first now, the others next time
        places = sorted(once.values())
        held = await _ask(client, [("GET", batch[place].key) for place in places])
        writes: list[tuple[int, tuple[Any, ...]]] = []
        settled = set()
        for place, found in zip(places, held, strict=True):
            key, row = batch[place]
            if isinstance(found, ResponseError) and "WRONGTYPE" in str(found):
                other.append(place)
                settled.add(place)
            elif isinstance(found, Exception):
                raise found
            elif (merged := _merged(layout, previous, found, row)) is None:
                older += 1
                settled.add(place)
            else:
                seen = "" if found is None else hashlib.sha1(found, usedforsecurity=False).hexdigest()
                writes.append((place, ("EVAL", SCRIPT, 1, key, seen, merged, ttl_ms)))
        told = await _ask(client, [command for _, command in writes])
        for (place, _), said in zip(writes, told, strict=True):
            if isinstance(said, Exception):
                raise said
            if said:
                written += 1
                settled.add(place)
        left = [place for place in left if place not in settled]
    if left:
        raise TryAgainError(f"{len(left)} rows were changed by others all the time")
    result = Written(written, older)
    if other:
        raise NotARow(sorted(other), batch[other[0]].key, result)
    return result


def _merged(layout: RowFormat, previous: PreviousSchemas | None, held: bytes | None, row: bytes) -> bytes | None:
    """What is to be stored; None when nothing of the row is newer than what is there."""
    if held is None:
        return row
    ours = layout.event_times(row)
    if previous is not None and previous.knows(held):
        held = previous.upgraded(held)
    if layout.why_foreign(held):
        return None if may_be_newer(held, max(ours)) else row
    # A group that the row does not write is not newer, or a row of old groups alone would begin the time to live anew.
    if all(before > after or after == NEVER for before, after in zip(layout.event_times(held), ours, strict=True)):
        return None
    return layout.merge(held, row)


async def _ask(client: Redis | RedisCluster, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    if not commands:
        return []
    pipe: Any = client.pipeline() if isinstance(client, RedisCluster) else client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    replies: list[Any] = await pipe.execute(raise_on_error=False)
    return replies
