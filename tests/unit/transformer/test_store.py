"""The lookup against a real Valkey: one round trip, a budget, and what happens when the store is not well."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from infermesh.cli.valkey import Valkey
from infermesh.deadline import NO_DEADLINE, Deadline
from services.transformer.administration import administration
from services.transformer.config import RedisConfig
from services.transformer.metrics import FeatureMetrics
from services.transformer.redis.connection import Connection
from services.transformer.redis.request import KEYS_PER_COMMAND, Request
from services.transformer.store import FeatureStore, StoreUnavailable

Counted = Callable[..., float]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every request that goes out on a connection."""
    requests: list[Request] = []
    send = Connection.send

    def noted(connection: Connection, request: Request) -> None:
        requests.append(request)
        send(connection, request)

    monkeypatch.setattr(Connection, "send", noted)
    return requests


def reads(requests: list[Request]) -> list[Request]:
    """Without what is said to begin with."""
    return [each for each in requests if each.is_mget]


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A Valkey for one test alone, which may be stopped."""
    with Valkey() as server:
        yield server


@pytest.fixture
def own_config(own_valkey: Valkey) -> RedisConfig:
    return config_of(own_valkey)


@pytest.fixture
async def store_of(feature_metrics: FeatureMetrics) -> AsyncIterator[Callable[..., FeatureStore]]:
    """Makes stores, and closes them."""
    made: list[FeatureStore] = []

    def make(config: RedisConfig) -> FeatureStore:
        made.append(FeatureStore(config, feature_metrics))
        return made[-1]

    yield make
    for store in made:
        await store.close()


def config_of(valkey: Valkey, **settings: Any) -> RedisConfig:
    return RedisConfig.model_validate({"url": valkey.url, "timeout": "2s", **settings})


@contextmanager
def hung(valkey: Valkey) -> Iterator[None]:
    """The server's process is stopped: it takes connections and bytes, and answers nothing."""
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


StoreOf = Callable[..., FeatureStore]


async def test_values_come_in_the_order_of_the_keys(
    redis_config: RedisConfig, client: Redis, store_of: StoreOf
) -> None:
    """Each key gets what it holds, None where nothing is there, a key that stands twice both times."""
    await client.mset({"s:a": b"1", "s:b": b"\x00\xff"})

    values = await store_of(redis_config).lookup([b"s:b", b"s:none", b"s:a", b"s:b"], NO_DEADLINE)

    assert values == [b"\x00\xff", None, b"1", b"\x00\xff"]


async def test_a_key_is_asked_for_once(redis_config: RedisConfig, store_of: StoreOf, sent: list[Request]) -> None:
    """Duplicates cost nothing in Redis."""
    await store_of(redis_config).lookup([b"d:a", b"d:b", b"d:a", b"d:a"], NO_DEADLINE)

    assert [list(each.items) for each in reads(sent)] == [[b"d:a", b"d:b"]]


async def test_ten_thousand_keys_are_one_round_trip(
    redis_config: RedisConfig, client: Redis, store_of: StoreOf, sent: list[Request]
) -> None:
    """A large request is one round trip of commands that are each short enough not to hold up others."""
    keys = [b"many:%d" % number for number in range(10_000)]
    await client.mset({key: key for key in keys[::2]})

    values = await store_of(redis_config).lookup(keys, NO_DEADLINE)

    assert values == [key if number % 2 == 0 else None for number, key in enumerate(keys)]
    assert [each.count for each in reads(sent)] == [10_000 // KEYS_PER_COMMAND]


async def test_no_keys_ask_nobody(redis_config: RedisConfig, store_of: StoreOf, sent: list[Request]) -> None:
    """A request for zero entities does not go to Redis."""
    assert await store_of(redis_config).lookup([], NO_DEADLINE) == []
    assert await store_of(redis_config).ask([], NO_DEADLINE) == []
    assert sent == []


async def test_a_key_of_another_type_holds_no_row(redis_config: RedisConfig, client: Redis, store_of: StoreOf) -> None:
    """A hash or list where a row should be is a missing row, not an error."""
    await client.hset("other:type", "field", "value")

    assert await store_of(redis_config).lookup([b"other:type"], NO_DEADLINE) == [None]


async def test_many_lookups_share_few_connections(own_valkey: Valkey, store_of: StoreOf) -> None:
    """Two connections serve fifty lookups at a time, each with its own answer."""
    config = config_of(own_valkey, connections=2)
    store = store_of(config)
    client = administration(config)
    await client.mset({f"k:{number}": str(number) for number in range(50)})

    answers = await asyncio.gather(*(store.lookup([b"k:%d" % number], NO_DEADLINE) for number in range(50)))
    clients = [each for each in await client.client_list() if each["name"] == "infermesh-transformer"]
    await client.aclose()

    assert answers == [[b"%d" % number] for number in range(50)]
    assert 1 <= len(clients) <= 2


async def test_a_store_that_was_restarted_is_used_at_once(
    own_valkey: Valkey, own_config: RedisConfig, store_of: StoreOf, counted: Counted
) -> None:
    """Connections that a restart has cut are replaced without a lookup noticing."""
    store = store_of(own_config)
    await asyncio.gather(*(store.lookup([b"a"], NO_DEADLINE) for _ in range(4)))

    own_valkey.stop()
    own_valkey.start()

    for _ in range(6):
        assert await store.lookup([b"a"], NO_DEADLINE) == [None]
    assert counted("infermesh_transformer_lookups_total", result="error") == 0


async def test_a_store_that_is_away_costs_nothing_after_a_few_calls(
    own_valkey: Valkey, own_config: RedisConfig, store_of: StoreOf, counted: Counted
) -> None:
    """After three failures Redis is not asked any more; a probe finds that it is back, and lookups work again."""
    store = store_of(own_config)
    assert await store.probe()
    own_valkey.stop()

    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await store.lookup([b"a"], NO_DEADLINE)
    away = counted("infermesh_transformer_redis_up")
    assert not await store.probe()
    own_valkey.start()
    with pytest.raises(StoreUnavailable, match="Redis is away"):
        await store.lookup([b"a"], NO_DEADLINE)
    assert await store.probe()

    assert await store.lookup([b"a"], NO_DEADLINE) == [None]
    assert (away, counted("infermesh_transformer_redis_up")) == (0, 1)
    assert counted("infermesh_transformer_lookups_total", result="error") == 3
    assert counted("infermesh_transformer_lookups_total", result="refused") == 3
    assert counted("infermesh_transformer_lookups_total", result="ok") == 1


async def test_watching_finds_a_store_that_comes_back(
    own_valkey: Valkey, feature_metrics: FeatureMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any traffic the metric follows Redis, down and up again, and is told each change once."""
    told: asyncio.Queue[bool] = asyncio.Queue()
    monkeypatch.setattr(feature_metrics, "redis_up", told.put_nowait)
    store = FeatureStore(config_of(own_valkey, probe_every="10ms"), feature_metrics)
    watching = asyncio.ensure_future(store.watch())

    async with asyncio.timeout(10):
        assert await told.get() is True
        own_valkey.stop()
        assert await told.get() is False
        own_valkey.start()
        assert await told.get() is True
    watching.cancel()
    await asyncio.wait({watching})
    await store.close()


async def test_a_slow_store_is_waited_for_no_longer_than_allowed(
    own_valkey: Valkey, store_of: StoreOf, counted: Counted
) -> None:
    """A Redis that hangs costs a call the timeout, and after three of them nothing."""
    store = store_of(config_of(own_valkey, timeout="30ms"))
    await asyncio.gather(store.lookup([b"a"], NO_DEADLINE), return_exceptions=True)

    with hung(own_valkey):
        asked = 0
        while store._client.is_up:  # a timeout while this process itself was held up counts for nothing
            asked += 1
            with pytest.raises(StoreUnavailable, match="no answer within 30 ms"):
                await store.lookup([b"a"], NO_DEADLINE)
        assert asked >= 3
        for _ in range(7):
            call = asyncio.ensure_future(store.lookup([b"a"], NO_DEADLINE))
            await asyncio.sleep(0)
            assert call.done()  # at the first turn of the loop: it has waited for nothing
            with pytest.raises(StoreUnavailable, match="Redis is away"):
                await call

    assert counted("infermesh_transformer_lookups_total", result="timeout") == asked
    assert counted("infermesh_transformer_lookups_total", result="refused") == 7


async def test_an_answer_that_comes_too_late_is_nobodys(
    own_valkey: Valkey, store_of: StoreOf, sent: list[Request]
) -> None:
    """After a timeout, and after a cancelled call, the next lookup gets its own answer and not the late one."""
    config = config_of(own_valkey, connections=1)
    store = store_of(config)
    client = administration(config)
    await client.mset({"late": "late", "mine": "mine"})
    await client.aclose()
    await store.lookup([b"late"], NO_DEADLINE)

    with hung(own_valkey):
        with pytest.raises(StoreUnavailable):
            await store.lookup([b"late"], Deadline.after(0.05))
        asked = len(reads(sent))
        cancelled = asyncio.ensure_future(store.lookup([b"other"], NO_DEADLINE))
        await asyncio.sleep(0)
        assert len(reads(sent)) == asked + 1  # it is under way
        cancelled.cancel()
        await asyncio.wait({cancelled})

    assert cancelled.cancelled()
    assert await store.lookup([b"mine"], NO_DEADLINE) == [b"mine"]


async def test_who_leaves_takes_nobody_along(own_valkey: Valkey, store_of: StoreOf) -> None:
    """A call that is cancelled while others wait for the same row, or on the same connection, leaves them theirs."""
    store = store_of(config_of(own_valkey, connections=1))
    await store.lookup([b"a"], NO_DEADLINE)

    calls = [asyncio.ensure_future(store.lookup([b"a"], NO_DEADLINE)) for _ in range(6)]
    await asyncio.sleep(0)
    for call in calls[1::2]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert results[::2] == [[None]] * 3
    assert all(isinstance(r, asyncio.CancelledError) for r in results[1::2])
    assert await store.lookup([b"a"], NO_DEADLINE) == [None]


async def test_a_lookup_takes_a_share_of_the_time_that_is_left(own_valkey: Valkey, store_of: StoreOf) -> None:
    """Of 100 ms that a call has left, a lookup may take 30; the rest is the model's."""
    store = store_of(config_of(own_valkey, deadline_share=0.3))

    with hung(own_valkey), pytest.raises(StoreUnavailable, match="no answer within 30 ms"):
        await store.lookup([b"a"], Deadline(100.1, clock=lambda: 100.0))


async def test_a_caller_in_a_hurry_opens_no_breaker(own_valkey: Valkey, store_of: StoreOf) -> None:
    """Calls with hardly any time left fail by themselves, and the next one with time is served."""
    store = store_of(config_of(own_valkey, failures=1))

    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="no answer within"):
            await store.lookup([b"a"], Deadline(0.0))

    assert await store.lookup([b"a"], NO_DEADLINE) == [None]


async def test_a_password_is_sent(store_of: StoreOf) -> None:
    """With the right password lookups work, with a wrong one the store counts as away, and no error tells the password."""
    with Valkey(options=["--requirepass", "secret"]) as valkey:
        good = store_of(config_of(valkey, password="secret"))
        bad = store_of(config_of(valkey, password="guess"))

        assert await good.lookup([b"a"], NO_DEADLINE) == [None]
        with pytest.raises(StoreUnavailable) as refused:
            await bad.lookup([b"a"], NO_DEADLINE)

    assert "guess" not in str(refused.value)
    assert "secret" not in repr(config_of(valkey, password="secret"))
