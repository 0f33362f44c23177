"""Rows that were cached when Redis went away: they stand in for it, are said to, and are gone when it is back.

A real Valkey is killed and started again; nothing here waits for a time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from infermesh.call import Call
from infermesh.cli.valkey import Valkey
from infermesh.deadline import NO_DEADLINE
from infermesh.errors import Unavailable
from infermesh.parameters import FEATURES
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import read_inputs
from services.transformer.found import UNANSWERED
from services.transformer.join_features import JoinFeatures
from services.transformer.metrics import FeatureMetrics
from services.transformer.plan import JoinPlan
from services.transformer.redis.cached import ENTRY_BYTES, Cache, CachedClient
from services.transformer.redis.client import make_client
from services.transformer.redis.errors import Unanswered
from services.transformer.redis.kept import Kept
from services.transformer.redis.settings import CacheConfig
from services.transformer.redis.slots import slot_of
from services.transformer.row import RowFormat
from services.transformer.statuses import FEATURE_STATUS, Status
from services.transformer.store import FeatureStore, StoreUnavailable
from services.transformer.views import FeatureFile
from tests.unit.transformer.redis_chaos import cluster, config_of, hung, until

CACHE = {"max_bytes": "1MiB", "max_age": "1h"}
COLUMNS = [("limit", "FP32"), ("declines", "FP32")]
LAYOUT = RowFormat(COLUMNS)
NOW_S = 1_700_000_000.0
NOW_US = int(NOW_S * 1e6)
Counted = Callable[..., float]
StoreOf = Callable[..., FeatureStore]


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
async def store_of(own: Valkey, feature_metrics: FeatureMetrics) -> AsyncIterator[StoreOf]:
    """Makes stores with a cache on a Valkey of their own, and closes them."""
    made: list[FeatureStore] = []

    def make(cache: dict[str, Any] | None = None, **settings: Any) -> FeatureStore:
        config = config_of(own.url, key_prefix="c", cache={**CACHE, **(cache or {})}, **settings)
        made.append(FeatureStore(config, feature_metrics))
        return made[-1]

    yield make
    for store in made:
        await store.close()


def cache_of(store: FeatureStore) -> Cache:
    client = store._client
    assert isinstance(client, CachedClient)
    return client.cache


async def stopped(own: Valkey, store: FeatureStore) -> None:
    """The server is killed, and the connections' ends have been read."""
    own.stop()
    await until(lambda: not len(cache_of(store)))


async def kept_of(store: FeatureStore, keys: list[bytes]) -> list[bytes] | None:
    with pytest.raises(StoreUnavailable) as away:
        await store.lookup(keys, NO_DEADLINE)
    return None if away.value.kept is None else list(away.value.kept)


async def test_cached_rows_answer_while_the_server_is_killed(own: Valkey, writer: Redis, store_of: StoreOf) -> None:
    """What was read is known still, what was not is not; that a key held nothing is not held against it; when the server is back
    the first lookup gets what is there then."""
    store = store_of()
    await writer.mset({"c:a": "1", "c:b": "2", "c:other": "3"})
    await store.lookup([b"c:a", b"c:b", b"c:none"], NO_DEADLINE)

    await stopped(own, store)

    assert await kept_of(store, [b"c:b", b"c:other", b"c:a", b"c:b"]) == [b"2", UNANSWERED, b"1", b"2"]
    assert await kept_of(store, [b"c:none"]) is None
    own.start()  # with nothing in it
    assert await store.probe()
    assert await store.lookup([b"c:a", b"c:other"], NO_DEADLINE) == [None, None]
    await stopped(own, store)
    assert await kept_of(store, [b"c:a", b"c:b"]) is None


async def test_the_first_answer_of_a_new_connection_lets_all_go(own: Valkey, writer: Redis, store_of: StoreOf) -> None:
    """Even without a probe, and for keys that the answer is not about."""
    store = store_of(failures=10**6)
    await writer.mset({"c:a": "1", "c:b": "2"})
    await store.lookup([b"c:a", b"c:b"], NO_DEADLINE)
    await writer.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until(lambda: not len(cache_of(store)))
    assert cache_of(store).last_known(b"c:b") == b"2"

    assert await store.lookup([b"c:a"], NO_DEADLINE) == [b"1"]

    assert cache_of(store).last_known(b"c:b") is None
    assert cache_of(store).last_known(b"c:a") == b"1"


async def test_a_server_that_hangs_is_stood_in_for(own: Valkey, writer: Redis, store_of: StoreOf) -> None:
    """Before anybody knows that it hangs what is cached is believed; from the probe on it is said to be of before."""
    store = store_of(timeout="100ms", failures=1)
    await writer.set("c:a", "1")
    await store.lookup([b"c:a"], NO_DEADLINE)

    with hung(own):
        assert await store.lookup([b"c:a"], NO_DEADLINE) == [b"1"]
        assert await kept_of(store, [b"c:a", b"c:new"]) == [b"1", UNANSWERED]
        assert not await store.probe()
        assert await kept_of(store, [b"c:a"]) == [b"1"]
    async with asyncio.timeout(30):
        while not await store.probe():
            pass

    assert await store.lookup([b"c:a"], NO_DEADLINE) == [b"1"]


async def test_it_is_off_where_it_is_not_wanted(own: Valkey, writer: Redis, store_of: StoreOf) -> None:
    """`keep_when_away: 0s` leaves the answer to the defaults."""
    store = store_of({"keep_when_away": "0s"})
    await writer.set("c:a", "1")
    await store.lookup([b"c:a"], NO_DEADLINE)

    await stopped(own, store)

    assert await kept_of(store, [b"c:a"]) is None


def cache(clock: Callable[[], float], **settings: Any) -> Cache:
    return Cache(CacheConfig.model_validate({**CACHE, **settings}), clock)


def test_it_ends_however_often_redis_is_lost() -> None:
    """The time begins with the first loss; what is lost later ends with it, and only then does the next time begin."""
    now = 0.0
    held = cache(lambda: now, keep_when_away="10s")
    held.put(b"a", b"1")
    held.flush()
    now = 6.0
    held.put(b"b", b"2")
    held.flush()
    assert (held.last_known(b"a"), held.last_known(b"b")) == (b"1", b"2")

    now = 10.0
    assert (held.last_known(b"a"), held.last_known(b"b"), held.size_bytes) == (None, None, 0)
    held.put(b"c", b"3")
    held.flush()
    now = 19.9
    assert held.last_known(b"c") == b"3"


def test_what_was_too_old_when_redis_went_away_is_not_kept() -> None:
    """`max_age` holds up to the loss, and `keep_when_away` after it."""
    now = 0.0
    held = cache(lambda: now, max_age="5s", keep_when_away="1h")
    held.put(b"old", b"1")
    now = 4.0
    held.put(b"new", b"2")
    now = 5.0

    held.flush()
    now = 1000.0

    assert (held.last_known(b"old"), held.last_known(b"new")) == (None, b"2")


def test_what_changes_or_is_read_anew_is_kept_no_longer() -> None:
    """A word of Redis about a key, and a newer value of it, take the one of before away; a server that was emptied takes all."""
    held = cache(lambda: 0.0)
    for key in (b"a", b"b", b"c", b"d"):
        held.put(key, b"1")
    held.flush()

    held.changed([b"a"])
    held.put(b"b", None)
    held.put(b"c", b"2")

    assert [held.last_known(key) for key in (b"a", b"b", b"c", b"d")] == [None, None, b"2", b"1"]
    held.forget()
    assert [held.last_known(key) for key in (b"c", b"d")] == [None, None]
    assert held.size_bytes == 0


def test_both_together_are_within_the_bound() -> None:
    """What is kept aside goes before what is believed; the count of bytes stays right."""
    size = ENTRY_BYTES + 1 + 100
    held = cache(lambda: 0.0, max_bytes=f"{3 * size}B")
    for key in (b"a", b"b", b"c"):
        held.put(key, bytes(100))
    held.flush()

    held.put(b"d", bytes(100))
    held.put(b"e", bytes(100))
    assert [held.last_known(key) is not None for key in (b"a", b"b", b"c", b"d")] == [False, False, True, True]
    held.put(b"f", bytes(100))
    held.put(b"g", bytes(100))

    assert (len(held), held.size_bytes, held.evictions) == (3, 3 * size, 4)
    assert [held.last_known(key) is not None for key in (b"c", b"d", b"e")] == [False, False, True]


def test_two_losses_are_one_store_of_rows() -> None:
    """The later value of a key wins, and its bytes are counted once."""
    kept = Kept(10.0, lambda: 0.0)
    kept.add(OrderedDict({b"a": (b"1", 5.0), b"b": (b"22", 5.0)}), 2 * (ENTRY_BYTES + 1) + 3)
    kept.add(OrderedDict({b"a": (b"333", 5.0)}), ENTRY_BYTES + 1 + 3)

    assert (kept.get(b"a"), kept.get(b"b"), len(kept)) == (b"333", b"22", 2)
    assert kept.size_bytes == 2 * (ENTRY_BYTES + 1) + 5
    while kept.evict():
        pass
    assert kept.size_bytes == 0


async def asked(
    store: FeatureStore, plan: JoinPlan, model: Any, request: pb.ModelInferRequest
) -> pb.ModelInferResponse:
    join = JoinFeatures({"m": plan}, store, model, clock=lambda: NOW_S)
    return await join(request, Call(), model.infer)


@pytest.mark.parametrize("unavailable", ["default", "fail"])
async def test_a_request_is_served_from_before_and_told_so(
    own: Valkey,
    writer: Redis,
    store_of: StoreOf,
    card: dict[str, Any],
    recorder: Callable[..., Any],
    request_of: Callable[..., pb.ModelInferRequest],
    feature_metrics: FeatureMetrics,
    counted: Counted,
    unavailable: str,
) -> None:
    """Cached rows count as found: fresh ones are `cached`, old ones stale, nulls null, whatever `unavailable` says; one of which
    nothing is known is a default, or fails the call."""
    file = FeatureFile.model_validate(
        {
            "views": {"card": {**card, "unavailable": unavailable}},
            "services": {"m": {"inputs": {"x": {"columns": ["card.*"], "datatype": "FP32"}}}},
        }
    )
    plan = JoinPlan(file, file.services["m"], prefix="c", max_entities=100, tally=feature_metrics.tally)
    layout = RowFormat(file.views["card"].columns)
    rows = {
        "fresh": layout.pack([5.0, 6.0], NOW_US),
        "old": layout.pack([7.0, 8.0], NOW_US - 3_600_000_001),
        "null": layout.pack([9.0, None], NOW_US),
    }
    await writer.mset({f"c:card:{name}": row for name, row in rows.items()})
    store, model = store_of(), recorder()
    wish = {FEATURE_STATUS: pb.InferParameter(bool_param=True)}
    await asked(store, plan, model, request_of({"card_id": [b"fresh", b"old", b"null"]}))

    await stopped(own, store)
    response = await asked(
        store, plan, model, request_of({"card_id": [b"fresh", b"old", b"fresh", b"null"]}, parameters=wish)
    )
    only = await asked(store, plan, model, request_of({"card_id": [b"fresh"]}))

    values = read_inputs(model.requests[1])["x"].tolist()
    assert values == [[5.0, 6.0], [7.0, 8.0], [5.0, 6.0], [9.0, 1.0]]
    told = np.frombuffer(response.raw_output_contents[0], np.uint8).reshape(4, 2).tolist()
    cached, stale, null = Status.CACHED, Status.STALE, Status.NULL
    assert told == [[cached, cached], [stale, stale], [cached, cached], [cached, null]]
    assert response.parameters[FEATURES].string_param == "defaulted"
    assert only.parameters[FEATURES].string_param == "cached"
    assert counted("infermesh_transformer_entities_total", view="card", status="cached") == 3
    assert counted("infermesh_transformer_feature_values_total", view="card", status="cached") == 7

    unknown = request_of({"card_id": [b"fresh", b"new"]}, parameters=wish)
    if unavailable == "fail":
        with pytest.raises(Unavailable, match='view "card" is not served without it'):
            await asked(store, plan, model, unknown)
    else:
        response = await asked(store, plan, model, unknown)
        assert read_inputs(model.requests[-1])["x"].tolist() == [[5.0, 6.0], [100.0, 1.0]]
        told = np.frombuffer(response.raw_output_contents[0], np.uint8).reshape(2, 2).tolist()
        assert told == [[cached, cached], [Status.DEFAULTED] * 2]
        assert response.parameters[FEATURES].string_param == "redis_unavailable"
    assert counted("infermesh_transformer_entities_total", view="card", status="unavailable") == 1


async def test_the_cache_is_counted(own: Valkey, writer: Redis, store_of: StoreOf, counted: Counted) -> None:
    """Hits, keys that are known to hold nothing, misses, changes, flushes, entries and bytes; and what was kept."""

    def keys(result: str) -> float:
        return counted("infermesh_transformer_cache_keys_total", result=result)

    store = store_of()
    await writer.mset({"c:a": "1", "c:b": "2"})
    for _ in range(2):
        await store.lookup([b"c:a", b"c:b", b"c:none"], NO_DEADLINE)
    assert [keys(each) for each in ("hit", "negative", "miss", "kept")] == [2, 1, 3, 0]
    assert counted("infermesh_transformer_cache_entries") == 3
    assert counted("infermesh_transformer_cache_bytes") == 3 * ENTRY_BYTES + 3 + 3 + 6 + 2

    await writer.set("c:a", "3")
    assert await store.probe()
    assert counted("infermesh_transformer_cache_invalidations_total") == 1
    await stopped(own, store)
    assert await kept_of(store, [b"c:b", b"c:new"]) == [b"2", UNANSWERED]

    assert counted("infermesh_transformer_cache_flushes_total") == 1
    assert counted("infermesh_transformer_cache_entries") == 0
    assert counted("infermesh_transformer_cache_evictions_total") == 0
    assert keys("kept") == 1


async def test_rows_of_a_node_that_died_are_known_while_others_answer() -> None:
    """In a cluster a connection that is made anew to another node lets nothing go; a key that is read anew is the new one's."""
    with cluster() as three:
        three.begin()
        keys = [b"k:%d" % number for number in range(60)]
        three.put(dict.fromkeys(keys, b"1"), slot_of)
        by_node: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
        for key in keys:
            by_node[three.owner(slot_of(key))].append(key)
        client = make_client(config_of(three.url, cache=CACHE, failures=1))
        assert isinstance(client, CachedClient)
        await client.mget(keys, deadline_s=5)

        three.nodes[1].stop()
        await until(lambda: not len(client.cache))
        three.put(dict.fromkeys(by_node[0], b"2"), slot_of)
        assert await client.mget(by_node[0], deadline_s=5) == [b"2"] * len(by_node[0])
        with pytest.raises(Unanswered):
            await client.mget(by_node[1], deadline_s=5)

        assert client.last_known(by_node[1]) == dict.fromkeys(by_node[1], b"1")
        assert client.last_known(by_node[0]) == dict.fromkeys(by_node[0], b"2")
        await client.close()
