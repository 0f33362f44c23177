"""Rows into a real Valkey, and into a cluster of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from services.transformer.administration import administration
from services.transformer.config import RedisConfig
from services.transformer.row import RowFormat
from services.transformer.writing.newest import ROWS_PER_STEP, NotARow, PackedRow, write_newest
from tests.unit.transformer.redis_chaos import Cluster, cluster, config_of

LAYOUT = RowFormat([("value", "INT64")])
ENTITIES = ("a", "b", "c")

Writes = list[list[tuple[str, int]]]  # by writer and in order: entity and event time


def row(prefix: str, entity: str, time_us: int, value: int = 0) -> PackedRow:
    return PackedRow(f"{prefix}:{entity}".encode(), LAYOUT.pack([value], time_us))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.lists(st.tuples(st.sampled_from(ENTITIES), st.integers(-(2**50), 2**50)), min_size=1, max_size=12),
        min_size=2,
        max_size=5,
    ),
    batch=st.integers(1, 5),
)
async def test_the_newest_row_stays_whoever_writes(redis_config: RedisConfig, writes: Writes, batch: int) -> None:
    """Writers with connections of their own, at the same time: of each entity the row with the latest time is what remains."""
    prefix = f"{redis_config.key_prefix}:race"
    clients = [administration(redis_config) for _ in writes]
    await clients[0].unlink(*(f"{prefix}:{entity}" for entity in ENTITIES))

    async def write(client: Any, ours: list[tuple[str, int]]) -> None:
        for at in range(0, len(ours), batch):
            await write_newest(client, [row(prefix, *each, value=each[1]) for each in ours[at : at + batch]])

    await asyncio.gather(*map(write, clients, writes))

    stored = await clients[0].mget([f"{prefix}:{entity}" for entity in ENTITIES])
    for client in clients:
        await client.aclose()
    for entity, found in zip(ENTITIES, stored, strict=True):
        times = [time_us for ours in writes for name, time_us in ours if name == entity]
        assert (found is None) == (not times)
        if times:
            assert LAYOUT.unpack(found) == (max(times), (max(times),))


async def test_a_batch_is_more_than_one_step(client: Redis, redis_config: RedisConfig) -> None:
    """A batch of several steps is told of as a whole, and the same batch again writes everything again."""
    rows = [row(redis_config.key_prefix, str(number), number) for number in range(3 * ROWS_PER_STEP + 1)]

    assert await write_newest(client, rows) == (len(rows), 0)
    assert await write_newest(client, [*rows, row(redis_config.key_prefix, "5", 4)]) == (len(rows), 1)
    assert await write_newest(client, []) == (0, 0)


async def test_keys_of_others_are_left_alone_and_named(client: Redis, redis_config: RedisConfig) -> None:
    """What lies under a key as another type stays; every other row of the batch is written."""
    rows = [row(redis_config.key_prefix, str(number), 1) for number in range(2 * ROWS_PER_STEP)]
    for place in (3, ROWS_PER_STEP + 1):
        await client.rpush(rows[place].key, "theirs")  # type: ignore[misc]  # redis-py's types know no asyncio here

    with pytest.raises(NotARow) as refused:
        await write_newest(client, rows)

    assert refused.value.places == (3, ROWS_PER_STEP + 1)
    assert refused.value.rest == (len(rows) - 2, 0)
    assert await client.lrange(rows[3].key, 0, -1) == [b"theirs"]  # type: ignore[misc]


@pytest.fixture
def three() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


async def test_in_a_cluster_every_node_gets_its_own(three: Cluster, redis_config: RedisConfig) -> None:
    """The newest row stays there too, in every slot; a node that has forgotten the script is told it again."""
    three.begin()
    client = administration(config_of(three.url))
    rows = [row("c", str(number), 100, number) for number in range(300)]
    try:
        assert await write_newest(client, rows) == (300, 0)
        three.admins[1].script_flush()
        older = [row("c", str(number), 99 if number % 2 else 101, -1) for number in range(300)]
        assert await write_newest(client, older) == (150, 150)

        values = [LAYOUT.unpack(await client.get(each.key)).values[0] for each in rows]
        assert values == [number if number % 2 else -1 for number in range(300)]
    finally:
        await client.aclose()
    assert all(admin.dbsize() > 50 for admin in three.admins)
