"""Rows that are kept in the process, before a real Valkey that tells of changes.

What is guaranteed: once a write is acknowledged and a question that was asked after that is answered on the connection that a row
came on, no lookup gets the row as it was before. Nothing here waits for a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from infermesh.cli.valkey import Valkey
from services.transformer.redis.cached import ENTRY_BYTES, Cache, CachedClient
from services.transformer.redis.client import make_client
from services.transformer.redis.cluster import ClusterClient
from services.transformer.redis.connection import Connection
from services.transformer.redis.errors import Unanswered
from services.transformer.redis.request import Request
from services.transformer.redis.settings import CacheConfig
from services.transformer.redis.single import SingleClient
from services.transformer.redis.slots import slot_of
from tests.unit.transformer.redis_chaos import cluster, config_of, hung, until

CACHE = {"max_bytes": "1MiB", "max_age": "1h"}
MODES = ["read", "broadcast"]


@pytest.fixture
def own() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
async def writer(own: Valkey) -> AsyncIterator[Redis]:
    client = Redis.from_url(own.url)
    yield client
    await client.aclose()


@pytest.fixture
async def client_of(own: Valkey) -> AsyncIterator[Callable[..., CachedClient]]:
    made: list[CachedClient] = []

    def make(tracking: str = "read", **settings: Any) -> CachedClient:
        config = config_of(own.url, key_prefix="c", cache={**CACHE, "tracking": tracking}, **settings)
        client = make_client(config)
        assert isinstance(client, CachedClient)
        made.append(client)
        return client

    yield make
    for client in made:
        await client.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Keys that are asked for, as they go out."""
    keys: list[bytes] = []
    send = Connection.send

    def noted(connection: Connection, request: Request) -> None:
        if request.is_mget:
            keys.extend(request.items)
        send(connection, request)

    monkeypatch.setattr(Connection, "send", noted)
    return keys


async def told(client: CachedClient) -> None:
    """Return when everything that the server had said so far has been read, on every connection."""
    assert await client.probe()


ClientOf = Callable[..., CachedClient]


@pytest.mark.parametrize("tracking", MODES)
async def test_a_row_is_read_once_until_it_changes(
    client_of: ClientOf, writer: Redis, sent: list[bytes], tracking: str
) -> None:
    """Written, deleted, written again, expired, all deleted: each time the next lookup sees it."""
    client = client_of(tracking)
    await writer.set("c:a", "1")
    for _ in range(3):
        assert await client.mget([b"c:a", b"c:none"], deadline_s=5) == [b"1", None]
    assert sent == [b"c:a", b"c:none"]

    changes: list[tuple[Any, list[bytes | None]]] = [
        (writer.set("c:a", "2"), [b"2", None]),
        (writer.delete("c:a"), [None, None]),
        (writer.set("c:none", "3"), [None, b"3"]),
        (writer.set("c:a", "4"), [b"4", b"3"]),
        (writer.pexpire("c:a", 0), [None, b"3"]),
        (writer.flushall(), [None, None]),
    ]
    for change, expected in changes:
        await change
        await told(client)
        assert await client.mget([b"c:a", b"c:none"], deadline_s=5) == expected
    count = len(sent)
    assert await client.mget([b"c:a", b"c:none"], deadline_s=5) == [None, None]
    assert len(sent) == count


async def test_a_change_that_is_told_behind_the_reply_wins(client_of: ClientOf, own: Valkey, writer: Redis) -> None:
    """Reply and invalidation come in one piece, before the caller wakes: nothing old is kept."""
    client = client_of(connections=1)
    await writer.set("c:a", "old")
    await client.mget([b"c:other"], deadline_s=5)
    connection = client._client._node.lanes[0].connection
    read = connection.data_received
    held: list[bytes] = []
    connection.data_received = held.append  # the transport has bound its own: hand the bytes over by hand
    transport = connection._transport
    transport.set_protocol(connection)

    asked = asyncio.ensure_future(client.mget([b"c:a"], deadline_s=5))
    await until(lambda: b"old" in b"".join(held))
    await writer.set("c:a", "new")
    await until(lambda: b"invalidate" in b"".join(held))
    connection.data_received = read
    transport.set_protocol(connection)
    read(b"".join(held))

    assert await asked == [b"old"]  # it was asked before the write was
    assert await client.mget([b"c:a"], deadline_s=5) == [b"new"]


@pytest.mark.parametrize("tracking", MODES)
async def test_no_lookup_is_older_than_a_write_that_was_told(
    client_of: ClientOf, writer: Redis, own: Valkey, tracking: str
) -> None:
    """Under load, on two connections that are cut at times: values only grow, and none is behind what was told."""
    client = client_of(tracking, failures=10**6)
    names = [b"c:%d" % number for number in range(8)]
    floor = dict.fromkeys(names, 0)
    latest = dict.fromkeys(names, 0)
    await writer.mset(dict.fromkeys(names, 0))
    stop, lookups, faults = asyncio.Event(), 0, []
    draw = random.Random(7)

    async def look() -> None:
        nonlocal lookups
        while not stop.is_set():
            keys = draw.sample(names, 4)
            least = {key: floor[key] for key in keys}
            try:
                values = await client.mget(keys, deadline_s=5)
            except Unanswered:
                await asyncio.sleep(0.005)
                continue
            lookups += 1
            faults.extend((k, v, least[k]) for k, v in zip(keys, values, strict=True) if int(v or 0) < least[k])
            await asyncio.sleep(0)

    looking = [asyncio.ensure_future(look()) for _ in range(8)]
    for turn in range(120):
        key = draw.choice(names)
        latest[key] += 1
        await writer.set(key, latest[key])
        if turn % 30 == 15:
            await writer.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        if await client.probe():
            floor[key] = latest[key]
    stop.set()
    await asyncio.gather(*looking)

    assert faults == []
    assert lookups > 200
    assert client.cache.hits > lookups  # most was answered from here, else nothing was tested


async def test_a_lost_connection_empties_the_cache(client_of: ClientOf, writer: Redis) -> None:
    """What changes while nobody tells of it is seen by the next lookup."""
    client = client_of()
    await writer.set("c:a", "1")
    assert await client.mget([b"c:a"], deadline_s=5) == [b"1"]

    await writer.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await writer.set("c:a", "2")
    await until(lambda: not len(client.cache))

    assert await client.mget([b"c:a"], deadline_s=5) == [b"2"]


async def test_a_server_that_no_longer_answers_a_probe_is_not_trusted(
    client_of: ClientOf, own: Valkey, writer: Redis
) -> None:
    """A connection may be dead without a word: after a probe without an answer nothing is kept."""
    client = client_of(timeout="100ms")
    await writer.set("c:a", "1")
    await client.mget([b"c:a"], deadline_s=5)

    with hung(own):
        assert not await client.probe()
        assert len(client.cache) == 0


async def test_a_cluster_tells_of_changes_too() -> None:
    """Each node of its own keys."""
    with cluster() as three:
        three.begin()
        keys = [b"c:%d" % number for number in range(30)]
        three.put(dict.fromkeys(keys, b"1"), slot_of)
        client = make_client(config_of(three.url, cache=CACHE))
        assert isinstance(client, CachedClient)
        assert await client.mget(keys, deadline_s=5) == [b"1"] * 30
        assert await client.mget(keys, deadline_s=5) == [b"1"] * 30
        assert client.cache.hits == 30

        three.put(dict.fromkeys(keys[::2], b"2"), slot_of)
        await told(client)

        assert await client.mget(keys, deadline_s=5) == [b"2", b"1"] * 15
        assert client.cache.hits == 45
        await client.close()


def test_it_is_bounded_by_bytes_and_age() -> None:
    """The least used go first; what is too old or too large is not there; the count of bytes stays right."""
    now = 0.0
    size = ENTRY_BYTES + 1 + 100
    config = CacheConfig.model_validate({"max_bytes": f"{3 * size}B", "max_age": "10s"})
    cache = Cache(config, clock=lambda: now)
    for key in (b"a", b"b", b"c"):
        cache.put(key, bytes(100))
    found: dict[bytes, bytes | None] = {}
    assert cache.take([b"a"], found) == []
    cache.put(b"d", bytes(100))

    assert cache.take([b"a", b"b", b"c", b"d"], found) == [b"b"]
    assert cache.size_bytes == 3 * size
    cache.put(b"huge", bytes(4 * size))
    assert (len(cache), cache.size_bytes) == (3, 3 * size)
    cache.put(b"a", b"")
    assert cache.size_bytes == 3 * size - 100
    now = 10.0
    assert cache.take([b"a", b"c"], {}) == [b"a", b"c"]
    assert cache.size_bytes == size
    cache.changed([b"d", b"unknown"])
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_that_nothing_is_there_may_be_left_out() -> None:
    """`negative: false` asks each time for a key that holds nothing."""
    cache = Cache(CacheConfig.model_validate({**CACHE, "negative": False}))
    cache.put(b"a", b"1")

    cache.put(b"a", None)

    assert cache.take([b"a"], {}) == [b"a"]


def test_the_address_and_the_settings_choose_the_client() -> None:
    """One server or a cluster, with and without a cache."""
    assert isinstance(make_client(config_of("redis://x")), SingleClient)
    assert isinstance(make_client(config_of("redis+cluster://x")), ClusterClient)
    assert isinstance(make_client(config_of("redis+sentinel://x/name")), SingleClient)
    assert isinstance(make_client(config_of("redis+cluster://x", cache=CACHE)), CachedClient)
    with contextlib.suppress(ValueError):
        make_client(config_of("redis://x", cache={"max_bytes": "1"}))
        pytest.fail("a bare number is no size")
