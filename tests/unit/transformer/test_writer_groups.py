"""Writing rows with source groups, and rows of several schemas at once, into a real Valkey."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from services.transformer.row import NEVER
from services.transformer.views import FeatureFile
from services.transformer.writer import FeatureWriter

WriterOf = Callable[..., FeatureWriter]
FileOf = Callable[..., FeatureFile]

GROUPED = {
    "entity": {"name": "id"},
    "groups": {"fast": {}, "slow": {}},
    "features": [{"name": "a", "group": "fast"}, {"name": "b", "group": "slow"}],
}


async def test_of_each_group_the_newest_stays(client: Redis, writer_of: WriterOf, file_of: FileOf) -> None:
    """Two sources write their own features of one row: neither takes the other's back, and an old one changes nothing."""
    writer = writer_of(file_of({"card": GROUPED}, {"x": {"columns": ["card.*"]}}))

    assert await writer.write([writer.pack("c", [1.0, None], (10, NEVER))]) == (1, 0)
    assert await writer.write([writer.pack("c", [None, 2.0], (NEVER, 5))]) == (1, 0)
    assert await writer.write([writer.pack("c", [9.0, None], (9, NEVER))]) == (0, 1)
    assert await writer.write(
        [writer.pack("c", [3.0, None], (11, NEVER)), writer.pack("c", [None, 4.0], (NEVER, 6))]
    ) == (2, 0)

    row = await client.get(writer.key("c"))
    assert writer.format.unpack(row).values == (3.0, 4.0)
    assert writer.format.event_times(row) == (11, 6)


async def test_an_older_row_gives_a_grouped_one_no_more_time(
    client: Redis, writer_of: WriterOf, file_of: FileOf
) -> None:
    """A row whose only group is older is left out, and the time to live of what is there goes on."""
    writer = writer_of(file_of({"card": GROUPED}, {"x": {"columns": ["card.*"]}}), ttl_ms=100_000)
    key = writer.key("c")
    await writer.write([writer.pack("c", [1.0, None], (100, NEVER))])
    await client.pexpire(key, 5_000)

    assert await writer.write([writer.pack("c", [2.0, None], (50, NEVER))]) == (0, 1)
    assert await client.pttl(key) <= 5_000
    assert await writer.write([writer.pack("c", [None, 2.0], (NEVER, 50))]) == (1, 0)
    assert await client.pttl(key) > 5_000


FLAT = {"entity": {"name": "id"}, "features": [{"name": "a"}, {"name": "b"}]}
OTHERS = {
    "entity": {"name": "id"},
    "groups": {"fast": {}, "slow": {}},
    "features": [{"name": "y", "group": "slow"}, {"name": "z", "group": "fast"}],
}


@pytest.mark.parametrize("old", [FLAT, OTHERS], ids=["without groups", "with other groups"])
async def test_a_writer_of_the_old_schema_takes_no_newer_group_back(
    client: Redis, writer_of: WriterOf, file_of: FileOf, old: dict[str, Any]
) -> None:
    """While both schemas are written, a row whose second group alone is newer than the old writer's stays."""
    inputs = {"x": {"columns": ["card.*"]}}
    now, before = writer_of(file_of({"card": GROUPED}, inputs)), writer_of(file_of({"card": old}, inputs))
    values, start_us = [None] * len(before.format.schema), 1_700_000_000_000_000
    await now.write([now.pack("e", [1.0, None], (start_us + 10, NEVER))])
    await now.write([now.pack("e", [None, 5.0], (NEVER, start_us + 50))])

    assert await before.write([before.pack("e", values, start_us + 20)]) == (0, 1)
    assert now.format.unpack(await client.get(now.key("e"))).values == (1.0, 5.0)
    assert await before.write([before.pack("e", values, start_us + 51)]) == (1, 0)


async def test_writers_of_groups_at_the_same_time_lose_nothing(
    writer_of: WriterOf, file_of: FileOf, client: Redis
) -> None:
    """Twenty writers merge into one row at once: of each group the newest is what remains."""
    writer = writer_of(file_of({"card": GROUPED}, {"x": {"columns": ["card.*"]}}))
    rows = [writer.pack("c", [float(t), None], (t, NEVER)) for t in range(1, 11)]
    rows += [writer.pack("c", [None, float(t)], (NEVER, t)) for t in range(1, 11)]
    random.Random(7).shuffle(rows)

    await asyncio.gather(*(writer.write([row]) for row in rows))

    assert writer.format.unpack(await client.get(writer.key("c"))).values == (10.0, 10.0)
