"""Who asks for much, and who asks for what it may not read, harms nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis import Redis

from infermesh.cli.valkey import Valkey
from infermesh.deadline import NO_DEADLINE
from services.transformer.metrics import FeatureMetrics
from services.transformer.redis.connection import Connection
from services.transformer.redis.errors import Late, RedisReplyError, Unanswered, Unfit
from services.transformer.redis.node import SHARED
from services.transformer.redis.request import FIELDS_PER_KEY, Request, commands, mget
from services.transformer.redis.single import SingleClient
from services.transformer.store import FeatureStore, StoreUnavailable
from tests.unit.transformer.redis_chaos import config_of


@pytest.fixture
def own() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
async def client(own: Valkey) -> AsyncIterator[SingleClient]:
    made = SingleClient(config_of(own.url, timeout="100ms", failures=1))
    yield made
    await made.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    requests: list[Request] = []
    send = Connection.send

    def noted(connection: Connection, request: Request) -> None:
        requests.append(request)
        send(connection, request)

    monkeypatch.setattr(Connection, "send", noted)
    return requests


def hashes(rows: int, fields: int) -> list[tuple[bytes, ...]]:
    return [(b"HMGET", b"h:%d" % row, *[b"f%d" % field for field in range(fields)]) for row in range(rows)]


def test_the_weight_of_hashes_is_that_of_their_fields() -> None:
    """A key weighs 1, and so do so many fields, or fewer in one command."""
    assert commands([(b"PING",)]).weight == 1
    assert commands([(b"GET", b"a")] * 3).weight == 3
    assert mget([b"a", b"b"]).weight == 2
    assert commands(hashes(10, 1)).weight == 10
    assert commands(hashes(10, 5 * FIELDS_PER_KEY)).weight == 50
    assert commands(hashes(10, 5 * FIELDS_PER_KEY + 1)).weight == 60


async def test_who_asks_for_many_fields_opens_no_breaker(client: SingleClient) -> None:
    """Few entities of many fields that take too long are that caller's affair; what is little counts."""
    client._node._unanswered(Late(), commands(hashes(60, 150)), counts=True)
    assert client.is_up

    client._node._unanswered(Late(), commands(hashes(1, 150)), counts=True)
    assert not client.is_up


@pytest.mark.parametrize("callers", [1, 9])
def test_who_waits_behind_much_is_known(callers: int) -> None:
    """Much is what is before a request on its connection, whether one caller asks for it or many; what is behind is not."""
    connection = Connection()
    before = [commands(hashes(1000 // callers, 9 * FIELDS_PER_KEY)) for _ in range(callers)]
    mine, behind = mget([b"a"]), mget([b"%d" % number for number in range(5000)])
    connection._waiting.extend([mget([b"first"]), *before, mine, behind])

    assert connection.is_behind_much(mine)
    assert connection.is_behind_much(behind)
    assert not connection.is_behind_much(before[0])


async def test_a_large_read_is_not_joined(own: Valkey, client: SingleClient, sent: list[Request]) -> None:
    """A hot key within somebody's long list, and a row among many, is asked for anew: else it would wait for all of it."""
    await client.mget([b"a"], deadline_s=5)
    sent.clear()

    async def both(large: Any, small: Any) -> None:
        first = asyncio.ensure_future(large)
        await asyncio.sleep(0)
        await asyncio.gather(first, small)

    keys = [b"k%d" % number for number in range(SHARED)]
    await both(client.mget(keys, deadline_s=5), client.mget(keys[:1], deadline_s=5))
    rows = hashes(SHARED // 2, 2 * FIELDS_PER_KEY)
    await both(client.ask(*rows, deadline_s=5), client.ask(rows[0], deadline_s=5))

    asked = [len(each.items) for each in sent if each.is_mget or each.items[0][0] == b"HMGET"]
    assert sorted(asked) == [1, 1, SHARED // 2, SHARED]
    assert len(client._flights) == 0


async def test_a_large_read_joins_small_ones(own: Valkey, client: SingleClient, sent: list[Request]) -> None:
    """What is coming already is not asked for again; each gets its own."""
    with Redis(port=own.port) as admin:
        admin.mset({f"k{number}": f"v{number}" for number in range(200)})
    await client.mget([b"a"], deadline_s=5)
    sent.clear()
    keys = [b"k%d" % number for number in range(200)]
    small = asyncio.ensure_future(client.mget(keys[3:5], deadline_s=5))
    await asyncio.sleep(0)

    assert await client.mget(keys, deadline_s=5) == [b"v%d" % number for number in range(200)]

    assert await small == [b"v3", b"v4"]
    assert [len(each.items) for each in sent if each.is_mget] == [2, 198]


async def test_a_key_that_may_not_be_read_is_that_lookups_failure(own: Valkey, feature_metrics: FeatureMetrics) -> None:
    """The user's rights leave out one view: its lookups fail and are told once, those of the others are served all the while."""
    with Redis(port=own.port) as admin:
        admin.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~good:*", "+@all")
        admin.set("good:1", "row")
    url = f"redis://u:pw@127.0.0.1:{own.port}"
    store = FeatureStore(config_of(url, failures=1), feature_metrics)

    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=r"may not do this \(NOPERM\)"):
            await store.lookup([b"bad:1"], NO_DEADLINE)
        with pytest.raises(StoreUnavailable, match=r"may not do this \(NOPERM\)"):
            await store.ask([(b"HMGET", b"bad:1", b"f")], NO_DEADLINE)
        assert await store.lookup([b"good:1"], NO_DEADLINE) == [b"row"]
    assert store._client.is_up
    await store.close()


async def test_what_redis_refuses_is_logged_once(
    own: Valkey, feature_metrics: FeatureMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """No breaker opens that would say it, and not every call should."""
    with Redis(port=own.port) as admin:
        admin.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~good:*", "+@all")
    store = FeatureStore(config_of(f"redis://u:pw@127.0.0.1:{own.port}"), feature_metrics)

    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.lookup([b"bad:1"], NO_DEADLINE)
    await store.close()

    told = [record for record in caplog.records if record.message == "Redis refuses a lookup"]
    assert [record.reason for record in told] == ["its user may not do this (NOPERM)"]  # type: ignore[attr-defined]


def test_one_error_is_told_to_several_callers_with_their_own_replies() -> None:
    """What one of them has found is not another's."""
    shared = Late(stalled=True)

    first, second = shared.beside({b"a": 1}), shared.beside({b"b": 2})

    assert (first.found, second.found, shared.found) == ({b"a": 1}, {b"b": 2}, {})
    assert (type(first), str(first), first.stalled) == (Late, "no answer in time", True)
    refused: Unanswered = Unfit("why").beside({b"a": RedisReplyError("x")})
    assert str(refused) == "why"
