"""Fetching rows that lie in hashes: only the fields that a service takes, and never so many at once that others wait."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from infermesh.cli.valkey import Valkey
from infermesh.deadline import NO_DEADLINE
from infermesh.tensors import DATATYPES
from services.transformer.config import RedisConfig
from services.transformer.entities import Entities
from services.transformer.fetch import fetched
from services.transformer.found import UNANSWERED
from services.transformer.layout.feast_values import FeastCodec
from services.transformer.layout.fields import VALUES_AT_ONCE, VALUES_ONE_BY_ONE
from services.transformer.layout.settings import FeastSetting, HashSetting
from services.transformer.layout.stored import layout_of
from services.transformer.metrics import FeatureMetrics
from services.transformer.row import RowFormat
from services.transformer.schema import Column
from services.transformer.store import FeatureStore, StoreUnavailable
from services.transformer.tally import Tally
from services.transformer.use import Use
from services.transformer.views import FeatureView, UsedView
from tests.unit.transformer.redis_chaos import config_of, until

NOW_US = 1_700_000_000_000_000
FEATURES = [{"name": "a", "default": 1}, {"name": "b", "datatype": "INT64", "default": 2}, {"name": "c", "default": 3}]


def use_of(name: str, used: tuple[str, ...], prefix: str, **view: Any) -> Use:
    declared = {"entity": {"name": "id"}, "features": FEATURES, "missing": "default", "unavailable": "default", **view}
    return Use(name, UsedView(FeatureView.model_validate(declared), name, ("id",)), used, prefix, Tally())


@pytest.fixture
async def store(redis_config: RedisConfig, feature_metrics: FeatureMetrics) -> AsyncIterator[FeatureStore]:
    made = FeatureStore(redis_config, feature_metrics)
    yield made
    await made.close()


def test_only_what_is_taken_is_asked_for() -> None:
    """Fields of features that no input takes stay where they are, in plain hashes and in Feast's; the event time comes always."""
    schema = RowFormat([("a", "FP32"), ("b", "INT64"), ("c", "FP32")])
    entity = {"id": "string"}
    plain, feast = HashSetting(event_time="at"), FeastSetting(project="p")

    some = layout_of(plain, schema, prefix="p", view="v", entity=entity, used={"a", "c"})
    (words,) = layout_of(feast, schema, prefix="p", view="v", entity=entity, used={"c"}).commands([b"1"])
    (all_words,) = layout_of(feast, schema, prefix="p", view="v", entity=entity).commands([b"1"])

    assert some.commands([b"1"]) == [(b"HMGET", b"p:v:1", b"a", b"c", b"at")]
    assert words == (*all_words[:2], *all_words[4:])
    for replies in ([[b"1.5", b"2.5", b"1700000000"]], [[b"1.5", b"2.5", b"1700000000"], [b"x", b"", b"1"]]):
        row = some.decode(replies)[0]  # the second time row by row, since one of them is odd
        assert schema.unpack(row or b"") == (NOW_US, (1.5, None, 2.5))


def test_texts_that_nobody_takes_are_empty() -> None:
    """A row is whole without them, read at once and by itself."""
    schema = RowFormat([Column("t", "BYTES"), Column("a", "FP32"), Column("v", "FP32", (2,)), Column("u", "BYTES")])
    layout = layout_of(HashSetting(), schema, prefix="p", view="v", entity={"id": "string"}, used={"a"})

    for row in (layout.decode([[b"1.5"]])[0], layout.decode([[b"1.5"], [b"x"]])[0]):
        assert schema.unpack(row or b"").values == (None, 1.5, None, None)


async def test_what_is_taken_is_served(store: FeatureStore, client: Redis, redis_config: RedisConfig) -> None:
    """A feature that is not taken is nobody's concern, whatever its field holds."""
    use = use_of("v", ("a", "c"), redis_config.key_prefix, layout="hash")
    await client.hset(f"{redis_config.key_prefix}:v:1", mapping={"a": "1.5", "b": "no number", "c": "2.5"})  # type: ignore[misc]
    entities = Entities(2, [0], {"id": [b"1", b"nobody"]})

    found = await fetched([use], entities, store, NO_DEADLINE)

    assert use.policy.format.unpack(found[0] or b"").values == (1.5, None, 2.5)
    assert found[1] is None
    assert use.statuses(found, entities, NOW_US).tolist() == [[0, 0], [2, 2]]


@pytest.mark.parametrize(("names", "at_once"), [(("a", "c"), VALUES_AT_ONCE), (("a", "t"), VALUES_ONE_BY_ONE)])
async def test_others_are_answered_in_between(
    store: FeatureStore, client: Redis, redis_config: RedisConfig, names: tuple[str, ...], at_once: int
) -> None:
    """Ten thousand hashes are made into rows a few at a time; each time the loop goes round."""
    features = [*FEATURES, {"name": "t", "datatype": "BYTES", "default": ""}]
    use = use_of("v", names, redis_config.key_prefix, layout="hash", features=features)
    ids = [b"%d" % number for number in range(10_000)]
    pipe = client.pipeline(transaction=False)
    for number in range(10_000):
        pipe.hset(f"{redis_config.key_prefix}:v:{number}", mapping={"a": str(number), "c": "1", "t": "x"})
    await pipe.execute()
    turns = 0
    decode, at = use.layout.decode, []

    def noted(replies: Any) -> list[bytes | None]:
        at.append(turns)
        assert len(replies) * len(names) <= at_once
        return decode(replies)

    use.layout.decode = noted  # type: ignore[method-assign]

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(others())
    found = await fetched([use], Entities(10_000, [0], {"id": ids}), store, NO_DEADLINE)
    other.cancel()

    assert [use.policy.format.unpack(row or b"").values[0] for row in found] == list(range(10_000))
    assert len(at) == -(-10_000 * len(names) // at_once)
    assert all(later > sooner for sooner, later in itertools.pairwise(at))


async def test_packed_rows_that_were_cached_are_served_beside_hashes(feature_metrics: FeatureMetrics) -> None:
    """While the store is away the rows that were cached are known, in the place of their view; those of hashes are not."""
    with Valkey() as server:
        store = FeatureStore(config_of(server.url, key_prefix="k", cache={"max_bytes": "1MiB"}), feature_metrics)
        uses = [
            use_of("h", ("a",), "k", layout="hash"),
            use_of("one", ("a",), "k"),
            use_of("two", ("a",), "k"),
        ]
        row = uses[1].policy.format.pack([5.0, 1, 1.0], NOW_US)
        writer = Redis.from_url(server.url)
        await writer.mset({"k:one:1": row, "k:two:2": row})
        await writer.aclose()
        entities = Entities(2, [0], {"id": [b"1", b"2"]})
        assert await fetched(uses, entities, store, NO_DEADLINE) == [None, None, row, None, None, row]

        server.stop()
        await until(lambda: not len(store._client.cache))  # type: ignore[attr-defined]
        with pytest.raises(StoreUnavailable) as away:
            await fetched(uses, entities, store, NO_DEADLINE)
        await store.close()

    nothing = UNANSWERED
    assert away.value.kept == [nothing, nothing, row, nothing, nothing, row]


CODEC = FeastCodec()
INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL")


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


_TAGS = st.sampled_from([b"\x18", b"\x20", b"\x38", b"\x40", b"\x35", b""])
_BYTES = st.one_of(
    st.integers(-(2**63), 2**64 - 1).map(varint), st.integers(-130, 300).map(varint), st.binary(max_size=11)
)


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(INTEGERS),
    st.lists(
        st.one_of(st.none(), st.just(b"\x98\x01"), st.tuples(_TAGS, _BYTES).map(b"".join)), min_size=1, max_size=5
    ),
)
@example("INT64", [b"\x20\x80\x00", b"\x20\x00", b"\x20" + varint(-1)])
@example("INT64", [b"\x20\x01\x00"])
@example("UINT64", [b"\x20" + varint(-1)])
@example("BOOL", [b"\x38\x02", b"\x98\x01"])
def test_integers_of_feast_at_once_are_those_one_by_one(datatype: str, raws: list[bytes | None]) -> None:
    """Where a batch gives values they are what each Value holds; where one holds none, the batch does not guess."""
    column = Column("f", datatype)
    try:
        alone = [0 if raw is None or CODEC.is_null(raw) else CODEC.value(raw, column) for raw in raws]
    except ValueError:
        alone = []

    try:
        values, nulls = CODEC.values(raws, datatype)
    except (ValueError, OverflowError):
        # It may refuse what is odd but valid, such as a Value with its field twice; then rows are read one by one.
        assert not alone or any(raw is not None and not plain(raw) for raw in raws)
        return

    assert alone
    assert values.dtype == DATATYPES[datatype].dtype
    assert values.tolist() == alone
    known = np.zeros(len(raws), np.bool_) if nulls is None else nulls
    assert known.tolist() == [raw is None or CODEC.is_null(raw) for raw in raws]


def plain(raw: bytes) -> bool:
    """Whether a Value is null, or one varint behind one tag, in at most ten bytes."""
    body = raw[1:]
    if not raw or raw.startswith(b"\x98\x01"):
        return True
    return 0 < len(body) <= 10 and body[-1] < 0x80 and all(byte >= 0x80 for byte in body[:-1])


def test_numbers_of_feast_are_read_at_once() -> None:
    """A batch of floats is one array of their bytes."""
    values, nulls = CODEC.values([b"\x35" + struct.pack("<f", value) for value in (1.5, -2.0)], "FP32")

    assert (values.tolist(), nulls) == ([1.5, -2.0], None)
