"""Rows of many hashes: asked for in pieces, within one budget, and what is known when not all could be had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from infermesh.deadline import NO_DEADLINE
from infermesh.errors import ResourceExhausted
from services.transformer.config import RedisConfig
from services.transformer.entities import Entities
from services.transformer.fetch import FIELDS_AT_ONCE, MAX_FIELDS, PIECES, fetched
from services.transformer.found import UNANSWERED
from services.transformer.metrics import FeatureMetrics
from services.transformer.redis.connection import Connection
from services.transformer.redis.errors import Away, RedisReplyError
from services.transformer.redis.request import Request
from services.transformer.redis.slots import slot_of
from services.transformer.store import FeatureStore, StoreUnavailable
from services.transformer.tally import Tally
from services.transformer.use import Use
from services.transformer.views import FeatureView, UsedView
from tests.unit.transformer.redis_chaos import cluster, config_of, hung

Counted = Callable[..., float]


def use_of(name: str, prefix: str, features: int, **view: Any) -> Use:
    names = [f"f{number}" for number in range(features)]
    declared = {"entity": {"name": "id"}, "features": [{"name": each, "default": 0} for each in names], **view}
    return Use(name, UsedView(FeatureView.model_validate(declared), name, ("id",)), names, prefix, Tally())


def of(ids: Sequence[bytes]) -> Entities:
    return Entities(len(ids), [0], {"id": ids})


class Replies:
    """A client whose replies a test makes; each is told to be for one command."""

    is_up = True

    def __init__(self, reply: Callable[[Any], Any]) -> None:
        self.reply = reply
        self.asked: list[int] = []

    async def ask(self, *commands: Any, deadline_s: float, counts: bool = True) -> list[Any]:
        self.asked.append(len(commands))
        return [self.reply(command) for command in commands]

    async def mget(self, keys: Sequence[bytes], *, deadline_s: float, counts: bool = True) -> list[bytes | None]:
        return [None] * len(keys)

    async def probe(self) -> bool:
        return True

    async def close(self) -> None:
        return None


@pytest.fixture
async def store(redis_config: RedisConfig, feature_metrics: FeatureMetrics) -> AsyncIterator[FeatureStore]:
    made = FeatureStore(redis_config, feature_metrics)
    yield made
    await made.close()


@pytest.mark.parametrize(("widths", "rows"), [((50,), 1000), ((150, 7), 301), ((2,), 2501)])
async def test_much_is_asked_in_pieces(
    store: FeatureStore,
    client: Redis,
    redis_config: RedisConfig,
    monkeypatch: pytest.MonkeyPatch,
    widths: tuple[int, ...],
    rows: int,
) -> None:
    """No write holds up the loop or Redis for long, few are under way, each row is its own; together they have all commands."""
    uses = [use_of(f"v{at}", redis_config.key_prefix, width, layout="hash") for at, width in enumerate(widths)]
    pipe = client.pipeline(transaction=False)
    for use in uses:
        for number in range(rows):
            pipe.hset(f"{redis_config.key_prefix}:{use.alias}:{number}", "f0", number)
    await pipe.execute()
    sent: list[int] = []
    under_way, most = 0, 0
    send, finished = Connection.send, Request.finished

    def noted(connection: Connection, request: Request) -> None:
        nonlocal under_way, most
        sent.append(sum(len(command) - 2 for command in request.items if command[0] == b"HMGET"))
        under_way += bool(sent[-1])
        most = max(most, under_way)
        send(connection, request)

    def ended(request: Request) -> None:
        nonlocal under_way
        under_way -= request.items[0][0] == b"HMGET"
        finished(request)

    monkeypatch.setattr(Connection, "send", noted)
    monkeypatch.setattr(Request, "finished", ended)

    found = await fetched(uses, of([b"%d" % number for number in range(rows)]), store, NO_DEADLINE)

    read = [uses[at // rows].policy.format.unpack(row or b"").values[0] for at, row in enumerate(found)]
    assert read == [*range(rows)] * len(uses)
    assert sum(sent) == sum(widths) * rows
    assert max(sent) <= FIELDS_AT_ONCE
    assert 1 <= most <= PIECES


async def test_what_is_little_is_one_round_trip(feature_metrics: FeatureMetrics, redis_config: RedisConfig) -> None:
    """Rows of several views go out together."""
    client = Replies(lambda command: [None] * (len(command) - 2))
    uses = [use_of(name, "p", 10, layout="hash") for name in ("a", "b", "c")]

    await fetched(uses, of([b"1", b"2", b"1"]), FeatureStore(redis_config, feature_metrics, client), NO_DEADLINE)

    assert client.asked == [6]


async def test_reading_the_replies_is_within_the_budget(feature_metrics: FeatureMetrics, counted: Counted) -> None:
    """Past the time of the lookup nothing is asked or read any more; the rows that there are stay known."""
    now = 0.0
    client = Replies(lambda command: [b"1.5"] * (len(command) - 2))
    use = use_of("v", "p", 50, layout="hash")
    store = FeatureStore(config_of("redis://nobody", timeout="50ms"), feature_metrics, client, clock=lambda: now)
    decode = use.layout.decode

    def slowly(replies: Sequence[Any]) -> list[bytes | None]:
        nonlocal now
        now += 0.02
        return decode(replies)

    use.layout.decode = slowly  # type: ignore[method-assign]

    with pytest.raises(StoreUnavailable, match="no answer within 50 ms") as late:
        await fetched([use], of([b"%d" % number for number in range(3000)]), store, NO_DEADLINE)

    kept, there = late.value.kept or [], 3 * use.layout.rows_at_once
    assert [row is UNANSWERED for row in kept] == [False] * there + [True] * (3000 - there)
    assert use.policy.format.unpack(kept[there - 1] or b"").values == (1.5,) * 50
    assert len(client.asked) <= 3 + PIECES
    assert counted("infermesh_transformer_lookups_total", result="timeout") == 1
    assert counted("infermesh_transformer_lookups_total", result="ok") == 0


async def test_a_request_has_only_so_many_fields(feature_metrics: FeatureMetrics, redis_config: RedisConfig) -> None:
    """More could not be had in any time that a lookup should take; ids that stand twice are asked for once."""
    client = Replies(lambda command: [None] * (len(command) - 2))
    store = FeatureStore(redis_config, feature_metrics, client)
    use = use_of("v", "p", 500, layout="hash")
    ids = [b"%d" % number for number in range(MAX_FIELDS // 500 + 1)]

    with pytest.raises(ResourceExhausted, match=f"1001 rows have 500500 fields of hashes, at most {MAX_FIELDS}"):
        await fetched([use], of(ids), store, NO_DEADLINE)

    assert client.asked == []
    assert len(await fetched([use], of([*ids[:5], *ids[:5]] * 200), store, NO_DEADLINE)) == 2000


@pytest.mark.parametrize("rows", [1, 3])
async def test_an_error_of_the_store_is_no_row(
    feature_metrics: FeatureMetrics, redis_config: RedisConfig, counted: Counted, rows: int
) -> None:
    """A redirection, say, by a node of a cluster that is asked as one server: the policies answer, as for packed rows."""
    client = Replies(
        lambda command: (
            RedisReplyError("MOVED 7 secret:6379")
            if command[1].endswith(b"0")
            else RedisReplyError("WRONGTYPE Operation against a key holding the wrong kind of value")
        )
    )
    store = FeatureStore(redis_config, feature_metrics, client)
    use = use_of("v", "p", 2, layout="hash")

    with pytest.raises(StoreUnavailable, match=r"as it should: it replies with an error \(MOVED\)$") as refused:
        await fetched([use], of([b"%d" % number for number in range(rows)]), store, NO_DEADLINE)

    kept = refused.value.kept
    assert (kept is None) == (rows == 1)
    assert [row is UNANSWERED for row in kept or []] == [True, False, False][: len(kept or [])]
    assert counted("infermesh_transformer_lookups_total", result="error") == 1


async def test_others_are_asked_no_more_when_the_store_is_away(
    feature_metrics: FeatureMetrics, redis_config: RedisConfig
) -> None:
    """One refusal stands for all pieces, and is counted once."""

    def away(command: Any) -> Any:
        raise Away("Redis is away")

    client = Replies(away)
    use = use_of("v", "p", 50, layout="hash")

    with pytest.raises(StoreUnavailable, match="Redis is away") as refused:
        await fetched(
            [use],
            of([b"%d" % n for n in range(5000)]),
            FeatureStore(redis_config, feature_metrics, client),
            NO_DEADLINE,
        )

    assert refused.value.kept is None
    assert len(client.asked) <= PIECES


async def test_packed_rows_stay_known_when_hashes_cannot_be_had(
    feature_metrics: FeatureMetrics, redis_config: RedisConfig
) -> None:
    """And the other way round nothing is thrown away either; that a key holds nothing is known too."""
    client = Replies(lambda command: RedisReplyError("ERR nothing"))
    uses = [use_of("h", "p", 2, layout="hash"), use_of("v", "p", 2)]

    with pytest.raises(StoreUnavailable) as refused:
        await fetched(uses, of([b"1", b"2"]), FeatureStore(redis_config, feature_metrics, client), NO_DEADLINE)

    assert refused.value.kept == [UNANSWERED, UNANSWERED, None, None]


@pytest.mark.parametrize("layout", ["packed", "hash"])
async def test_a_node_that_hangs_costs_only_its_own_rows(feature_metrics: FeatureMetrics, layout: str) -> None:
    """In a cluster what the others reply is known, in time and when the breaker of that node is open."""
    with cluster() as three:
        three.begin()
        use = use_of("v", "p", 2, layout=layout)
        ids = [b"%d" % number for number in range(60)]
        keys = [b"p:v:" + each for each in ids]
        row = use.policy.format.pack([1.0, 2.0], 5)
        for key in keys:
            admin = three.admins[three.owner(slot_of(key))]
            if layout == "packed":
                admin.set(key, row)
            else:
                admin.hset(key, mapping={"f0": "1", "f1": "2"})
        store = FeatureStore(config_of(three.url, timeout="300ms", failures=1), feature_metrics)

        async def found() -> list[bytes | None]:
            if layout == "packed":
                return await store.lookup(keys, NO_DEADLINE)
            return await fetched([use], of(ids), store, NO_DEADLINE)

        async with asyncio.timeout(30):
            while True:  # until there is a map, on a machine however busy
                try:
                    whole = await found()
                    break
                except StoreUnavailable:
                    await store.probe()
        with hung(three.nodes[1]):
            kept = []
            for _ in range(2):
                with pytest.raises(StoreUnavailable) as away:
                    await found()
                kept.append(away.value.kept)
        await store.close()

    lost = [three.owner(slot_of(key)) == 1 for key in keys]
    assert None not in whole
    for known in kept:
        assert known == [UNANSWERED if gone else row for row, gone in zip(whole, lost, strict=True)]
    assert 0 < sum(lost) < len(keys)
