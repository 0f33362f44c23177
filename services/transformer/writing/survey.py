"""What is stored of a view, by a look at some of it; and taking it away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from services.transformer.administration import Administration
from services.transformer.row import NEVER, RowFormat

__all__ = ["Survey", "count_rows", "delete_all", "delete_keys", "survey"]

SCAN_COUNT = 1000  # keys that Redis looks at in one step, some 0.2 ms
READ_KEYS = 200
WEIGHED_KEYS = 200  # MEMORY USAGE is one command for each key
UNLINK_KEYS = 500


@dataclass
class Survey:
    """Of `scanned` keys `rows` are the view's; the rest is about those that were read."""

    scanned: int = 0
    keys_in_store: int = 0
    whole: bool = False
    """Whether every key was looked at: then `rows` is a count, else the estimate is."""
    rows: int = 0
    estimated_rows: int = 0
    read: int = 0
    foreign: dict[str, int] = field(default_factory=dict)
    """By reason."""
    row_bytes: float = 0.0
    """Mean length of a row."""
    memory_bytes: float | None = None
    """Mean memory that Redis needs for a row and its key; None where it does not tell."""
    expiring: float = 0.0
    """Share of rows with a time to live."""
    ages_s: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Of each source group: p50, p99 and the oldest."""
    null_shares: dict[str, float] = field(default_factory=dict)
    """Of each feature."""


async def survey(
    client: Administration, key_prefix: bytes, layout: RowFormat, *, sample: int, read: int, now: float
) -> Survey:
    """Look at `sample` keys of the store at most, and read at most `read` of the view's rows. Raises redis-py's errors.

    SCAN goes through the keys in the order of their hashes, so that what it has seen first stands for the rest.
    """
    found = Survey(keys_in_store=await _size(client))
    keys: set[bytes] = set()
    step = max(1, min(SCAN_COUNT, sample))
    async for page in _scan(client, b"*", step):
        found.scanned += len(page)
        keys.update(key for key in page if key.startswith(key_prefix))
        if found.scanned >= sample:
            break
    else:
        found.whole = True
    found.rows = len(keys)
    share = found.rows / found.scanned if found.scanned else 0.0
    found.estimated_rows = found.rows if found.whole else round(share * max(found.keys_in_store, found.scanned))
    await _look_into(client, sorted(keys)[:: max(1, len(keys) // max(1, read))][:read], layout, found, now)
    return found


async def count_rows(
    client: Administration, key_prefixes: Mapping[str, bytes], *, sample: int
) -> tuple[dict[str, int], bool]:
    """Rows of each view, and whether that is a count: else it is estimated from `sample` keys."""
    rows = dict.fromkeys(key_prefixes, 0)
    by_prefix = {prefix: name for name, prefix in key_prefixes.items()}
    scanned = 0
    whole = True
    async for page in _scan(client, b"*", max(1, min(SCAN_COUNT, sample))):
        scanned += len(page)
        for key in page:
            name = by_prefix.get(b":".join(key.split(b":", 2)[:2]) + b":")
            if name is not None:
                rows[name] += 1
        if scanned >= sample:
            whole = False
            break
    if not whole and scanned:
        in_store = max(await _size(client), scanned)
        rows = {name: round(count * in_store / scanned) for name, count in rows.items()}
    return rows, whole


async def delete_keys(client: Administration, keys: Sequence[bytes]) -> int:
    """Take keys away, their memory in the background; how many there were."""
    gone = 0
    for at in range(0, len(keys), UNLINK_KEYS):
        part = keys[at : at + UNLINK_KEYS]
        replies = await _pipe(client, [("UNLINK", key) for key in part])
        gone += sum(_checked(reply) for reply in replies)
    return gone


async def delete_all(
    client: Administration, key_prefix: bytes, progress: Callable[[int], None] = lambda gone: None
) -> int:
    """Take away every key with the prefix; how many there were. One that is written meanwhile may stay."""
    gone = 0
    async for page in _scan(client, key_prefix + b"*", SCAN_COUNT):
        if page:
            gone += await delete_keys(client, page)
            progress(gone)
    return gone


async def _scan(client: Administration, match: bytes, count: int) -> AsyncIterator[list[bytes]]:
    if isinstance(client, RedisCluster):
        for node in client.get_primaries():
            async for page in _pages(node, match, count):
                yield page
    else:
        async for page in _pages(client, match, count):
            yield page


async def _pages(node: Any, match: bytes, count: int) -> AsyncIterator[list[bytes]]:
    cursor: Any = 0
    while True:
        cursor, page = await node.execute_command("SCAN", cursor, "MATCH", match, "COUNT", count)
        yield page
        if int(cursor) == 0:
            return
        await asyncio.sleep(0)


async def _size(client: Administration) -> int:
    size: Any = await client.dbsize()  # of a cluster, redis-py adds up its primaries
    return int(size)


async def _look_into(
    client: Administration, keys: Sequence[bytes], layout: RowFormat, found: Survey, now: float
) -> None:
    rows: list[bytes] = []
    lengths = 0
    for at in range(0, len(keys), READ_KEYS):
        for reply in await _pipe(client, [("GET", key) for key in keys[at : at + READ_KEYS]]):
            if isinstance(reply, Exception) and "WRONGTYPE" in str(reply):
                found.read += 1
                found.foreign["no string, by another writer"] = found.foreign.get("no string, by another writer", 0) + 1
            elif (row := _checked(reply)) is not None:  # else it has gone in between
                found.read += 1
                lengths += len(row)
                if why := layout.why_foreign(row):
                    found.foreign[why] = found.foreign.get(why, 0) + 1
                else:
                    rows.append(row)
    found.row_bytes = lengths / found.read if found.read else 0.0
    weighed = keys[:: max(1, len(keys) // WEIGHED_KEYS)][:WEIGHED_KEYS]
    replies = await _pipe(client, [("MEMORY", "USAGE", key) for key in weighed])
    sizes = [reply for reply in replies if isinstance(reply, int)]
    found.memory_bytes = sum(sizes) / len(sizes) if sizes else None
    ttls = [_checked(reply) for reply in await _pipe(client, [("PTTL", key) for key in weighed])]
    found.expiring = sum(ttl >= 0 for ttl in ttls) / len(ttls) if ttls else 0.0
    if rows:
        _tell(layout, rows, found, now)


def _tell(layout: RowFormat, rows: Sequence[bytes], found: Survey, now: float) -> None:
    table = np.frombuffer(b"".join(row[: layout.width] for row in rows), np.uint8).reshape(len(rows), layout.width)
    for group in layout.groups:
        times = np.ascontiguousarray(table[:, group.event_time]).view("<i8").ravel()
        known = times[times != NEVER]
        if len(known):
            ages = now - known / 1e6
            p50, p99 = np.percentile(ages, [50, 99])
            found.ages_s[group.name] = (float(p50), float(p99), float(ages.max()))
        bits = np.unpackbits(np.ascontiguousarray(table[:, group.bitmap]), axis=1, bitorder="little")
        for bit, position in enumerate(group.positions):
            found.null_shares[layout.schema[position].name] = float(bits[:, bit].mean())


async def _pipe(client: Administration, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    if not commands:
        return []
    pipe: Any = client.pipeline() if isinstance(client, RedisCluster) else client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    replies: list[Any] = await pipe.execute(raise_on_error=False)
    return replies


def _checked(reply: Any) -> Any:
    if isinstance(reply, ResponseError):
        raise reply
    return reply
