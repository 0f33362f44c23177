"""Plain hashes with readable fields, read as packed rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.transformer.config import RedisConfig
from services.transformer.layout.settings import HashSetting
from services.transformer.layout.stored import Layout, faults_of, layout_of
from services.transformer.layout.text import TextCodec
from services.transformer.row import NEVER, RowFormat, UnreadableRow
from services.transformer.schema import Column

ENTITY = {"card_id": "string"}
SCHEMA = RowFormat([("limit", "FP32"), ("ratio", "FP64"), ("visits", "INT64"), ("taps", "UINT8"), ("vip", "BOOL")])
GOOD = [b"2100.5", b"0.1", b"-7", b"255", b"True", b"1700000000.25"]
TIME_US = 1_700_000_000_250_000


def layout(schema: RowFormat = SCHEMA, **setting: Any) -> Layout:
    given = HashSetting.model_validate({"event_time": "updated", **setting})
    return layout_of(given, schema, prefix="p", view="card", entity=ENTITY)


def test_one_command_asks_for_all_fields_of_an_entity() -> None:
    """The key is the prefix, the view and the entity; the fields have the features' names and the event time's."""
    assert layout().commands([b"c-1", b"c-2"]) == [
        (b"HMGET", b"p:card:" + entity, b"limit", b"ratio", b"visits", b"taps", b"vip", b"updated")
        for entity in (b"c-1", b"c-2")
    ]


def test_keys_and_fields_may_be_those_that_are_there_already() -> None:
    """A key of another form, with a hash tag too, and fields of other names."""
    found = layout(key="user:{{entity}}:f", fields={"limit": "credit limit"}, event_time="").commands([b"7"])

    assert found == [(b"HMGET", b"user:{7}:f", b"credit limit", b"ratio", b"visits", b"taps", b"vip")]


@pytest.mark.parametrize("count", [1, 5])
def test_text_is_read_by_the_datatype(count: int) -> None:
    """Numbers, booleans and the event time are read from text, one entity alone and several together."""
    rows = layout().decode([GOOD] * count)

    assert [SCHEMA.unpack(row or b"") for row in rows] == [(TIME_US, (2100.5, 0.1, -7, 255, True))] * count


@pytest.mark.parametrize("count", [1, 5])
def test_absent_and_empty_fields_are_null(count: int) -> None:
    """A field that is not there, or is empty, is a null; a hash without any field is no row."""
    some = [None, b"", b"0", None, b"", b"0"]

    rows = layout().decode([some, [None] * 6] * count)

    assert rows[1::2] == [None] * count
    assert [SCHEMA.unpack(row or b"") for row in rows[::2]] == [(0, (None, None, 0, None, None))] * count


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        (0, b"abc", 'feature "limit": expected FP32, got "abc"'),
        (0, b"1e39", 'feature "limit": expected FP32, got 1e\\+39, which is out of its range'),
        (0, b"1_000", 'expected FP32, got "1_000"'),
        (0, b"\xff\xfe", "expected FP32, got"),
        (2, b"1.5", 'feature "visits": expected INT64, got "1.5"'),
        (2, b"9223372036854775808", "which 64 bits can't hold"),
        (2, b"1_0", 'expected INT64, got "1_0"'),
        (2, b"9" * 5000, "expected INT64, got"),
        (3, b"256", "expected UINT8, got 256"),
        (3, b"-1", "expected UINT8, got -1"),
        (4, b"yes", 'feature "vip": expected BOOL, got "yes"'),
        (5, b"yesterday", 'event time: expected a number since 1970 or ISO 8601, got "yesterday"'),
        (5, b"nan", "event time: expected a number"),
        (5, b"inf", "event time: expected a number"),
        (5, b"1e300", 'event time: "1e300" is out of range'),
        (5, None, 'event time: no field "updated"'),
    ],
)
@pytest.mark.parametrize("others", [0, 4])
def test_text_that_is_no_value_makes_the_row_foreign(field: int, text: bytes | None, words: str, others: int) -> None:
    """A bad field is told by name and makes its row foreign; the rows beside it are read as if it were not there."""
    bad: list[bytes | None] = [*GOOD]
    bad[field] = text

    rows = layout().decode([GOOD] * others + [bad] + [GOOD] * others)

    told = rows.pop(others)
    assert isinstance(told, UnreadableRow)
    with pytest.raises(ValueError, match=words):
        SCHEMA.unpack(told)
    assert [SCHEMA.unpack(row or b"").event_time_us for row in rows] == [TIME_US] * 2 * others


@pytest.mark.parametrize(
    ("unit", "text", "time_us"),
    [
        ("s", b"1700000000", 1_700_000_000_000_000),
        ("s", b"-1.5", -1_500_000),
        ("ms", b"1700000000250", TIME_US),
        ("us", b"1700000000250000", TIME_US),
        ("s", b"2023-11-14T22:13:20.250Z", TIME_US),
        ("ms", b"2023-11-14T23:13:20.250+01:00", TIME_US),
        ("s", b"2023-11-14 22:13:20.250", TIME_US),
    ],
)
def test_event_times_are_numbers_or_iso(unit: str, text: bytes, time_us: int) -> None:
    """A number counts the unit that was set; ISO 8601 says its offset or is UTC."""
    (row,) = layout(unit=unit).decode([[*GOOD[:-1], text]])

    assert SCHEMA.unpack(row or b"").event_time_us == time_us


@pytest.mark.parametrize("text", [b"1_700_000_000", "١٧٠٠٠٠٠٠٠٠".encode(), b"1_7.5", "١.٥".encode()])
def test_event_times_in_pythons_own_spelling_are_none(text: bytes) -> None:
    """Grouped digits and digits of other scripts are not what another program means by a number."""
    (row,) = layout().decode([[*GOOD[:-1], text]])

    assert isinstance(row, UnreadableRow)


@pytest.mark.parametrize(("text", "count"), [(b"1e400", 1), (b"-1e400", 3)])
def test_a_number_past_all_floats_is_not_infinite(text: bytes, count: int) -> None:
    """1e400 is as much out of range as 1e39; only a text that spells infinity is infinite."""
    rows = layout().decode([[text, *GOOD[1:]]] * count)

    assert all(isinstance(row, UnreadableRow) for row in rows)


def test_a_vector_has_no_number_past_all_floats() -> None:
    """The same of the elements of a JSON array."""
    codec = TextCodec("s")

    with pytest.raises(ValueError, match="expected FP32"):
        codec.value(b"[1, 1e400]", Column("v", "FP32", (2,)))


def test_without_an_event_time_nobody_knows_the_age() -> None:
    """A hash that holds no time is read, and its event time is the one that stands for none."""
    (row,) = layout(event_time="").decode([GOOD[:-1]])

    assert SCHEMA.unpack(row or b"").event_time_us == NEVER


def test_texts_are_bytes_and_vectors_are_json() -> None:
    """BYTES are taken as they are; a vector of the wrong length, or of anything but numbers, makes the row foreign."""
    schema = RowFormat([("city", "BYTES"), Column("e", "FP32", (2,)), Column("flags", "BOOL", (1, 2))])
    replies = [[b"Z\xc3\xbcrich", b"[1, 2.5]", b"[[true, false]]", b"0"], *bad_vectors(b"0")]

    first, *others = layout(schema).decode(replies)

    assert schema.unpack(first or b"") == (0, (b"Z\xc3\xbcrich", (1.0, 2.5), ((True, False),)))
    assert [str(getattr(row, "why", "")).partition(",")[0] for row in others] == [
        'feature "e": expected FP32 [2]',
        'feature "e": expected FP32',
        'feature "e": expected FP32[2]',
        'feature "e": expected FP32[2]',
        'feature "flags": expected BOOL',
    ]


def bad_vectors(time: bytes) -> list[list[bytes]]:
    vectors = [b"[1]", b'["x", 2]', b"[1,", b"[" * 100_000]
    return [[b"", each, b"", time] for each in vectors] + [[b"", b"", b"[[1, 0]]", time]]


NUMBERS = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70).map(lambda n: str(n).encode()),
    st.floats(allow_nan=False).map(lambda x: repr(x).encode()),
    st.sampled_from([b"", b"true", b"False", b"1_0", b" 1", b"nan", b"-inf", b"0x10", b"\xff", b"1e400"]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(*[NUMBERS] * 6).map(list), min_size=2, max_size=6))
def test_rows_do_not_depend_on_each_other(replies: list[list[bytes | None]]) -> None:
    """Whatever the fields hold, a row of a batch is the row read by itself: bit for bit, or foreign for the same reason."""
    stored = layout()

    together = stored.decode(replies)

    for row, reply in zip(together, replies, strict=True):
        alone, _ = stored.decode([reply, [b"no number"] * 6])  # beside a bad one, rows are read one by one
        assert (row, getattr(row, "why", "")) == (alone, getattr(alone, "why", ""))


def test_a_number_is_the_nearest_that_the_datatype_has() -> None:
    """Text becomes FP32 by way of the nearest FP64, alone and in a batch; infinities and NaN are values."""
    rows = layout().decode([[text, *GOOD[1:]] for text in (b"0.1", b"inf", b"-Infinity", b"nan", b"3.4028235e38")])

    values = [SCHEMA.unpack(row or b"").values[0] for row in rows]
    assert values[:3] == [float(np.float32(0.1)), math.inf, -math.inf]
    assert isinstance(values[3], float)
    assert math.isnan(values[3])


def test_a_key_that_holds_something_else_is_foreign() -> None:
    """WRONGTYPE is a fault of that row; any other error is one of the store, and is raised."""
    wrong = ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")

    (row,) = layout().decode([wrong])

    assert SCHEMA.why_foreign(row or b"") == "the key holds no hash"
    with pytest.raises(ResponseError, match="LOADING"):
        layout().decode([ResponseError("LOADING Redis is loading the dataset in memory")])


async def test_hashes_in_redis_are_read(client: Redis, redis_config: RedisConfig) -> None:
    """What HSET wrote is what is read, through a real server; an entity that is not there is no row."""
    prefix = redis_config.key_prefix
    stored = layout_of(HashSetting(event_time="at"), SCHEMA, prefix=prefix, view="card", entity=ENTITY)
    fields = {"limit": 2100.5, "ratio": 0.1, "visits": -7, "taps": 255, "vip": "true", "at": "2023-11-14T22:13:20.25Z"}
    await client.hset(f"{prefix}:card:c-1", mapping={**fields, "of others": "x"})  # type: ignore[misc]  # redis-py's union

    replies = [await client.execute_command(*each) for each in stored.commands([b"c-1", b"c-2"])]

    first, second = stored.decode(replies)
    assert SCHEMA.unpack(first or b"") == (TIME_US, (2100.5, 0.1, -7, 255, True))
    assert second is None


def test_settings_that_contradict_the_view_are_refused() -> None:
    """A mapped feature that is none, source groups, and a maximum age without an event time."""
    setting = HashSetting(fields={"limt": "x"})
    grouped = RowFormat([Column("limit", "FP32", (), "fast")])

    assert faults_of(setting, grouped, entity=ENTITY, aged=True) == [
        'layout.fields: no feature "limt"',
        "layout: source groups are for packed rows: a hash has one event time",
        "layout.event_time: needed by max_age: without it nobody knows how old a row is",
    ]
    assert faults_of(HashSetting(event_time="at"), SCHEMA, entity=ENTITY, aged=True) == []
    with pytest.raises(ValueError, match=r"expected a key with one \{entity\}"):
        HashSetting(key="card")
