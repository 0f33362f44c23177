"""Feast's hashes, read as packed rows. `feast_rows.json` holds what the Feast that it names wrote, and what it read itself.

tests/e2e/test_feast.py asks the installed Feast the same anew.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.transformer.keys import joined_ids
from services.transformer.layout.feast import FeastKeys, feature_field, murmur3_32
from services.transformer.layout.feast_values import FeastCodec
from services.transformer.layout.settings import FeastSetting
from services.transformer.layout.stored import Layout, faults_of, layout_of
from services.transformer.row import RowFormat, UnreadableRow
from services.transformer.schema import Column

GOLDEN = json.loads((Path(__file__).parent / "feast_rows.json").read_text())
STORED = {
    bytes.fromhex(k): {bytes.fromhex(f): bytes.fromhex(v) for f, v in h.items()} for k, h in GOLDEN["keys"].items()
}
CARD = RowFormat(
    [
        ("limit", "FP32"),
        ("ratio", "FP64"),
        ("visits", "INT64"),
        ("declines", "INT32"),
        ("vip", "BOOL"),
        ("city", "BYTES"),
        Column("embedding", "FP32", (3,)),
        Column("codes", "INT64", (2,)),
    ]
)


def layout_for(schema: RowFormat, view: str, entity: dict[str, str], **setting: Any) -> Layout:
    given = FeastSetting.model_validate({"project": GOLDEN["project"], "view": view, **setting})
    return layout_of(given, schema, prefix="unused", view="ours", entity=entity)


def answered(commands: list[tuple[bytes, ...]]) -> list[list[bytes | None]]:
    """What Redis answers to HMGET over the stored hashes."""
    return [[STORED.get(key, {}).get(name) for name in names] for _, key, *names in commands]


def plain(value: Any) -> Any:
    """A value of a row as Feast says it."""
    return list(value) if isinstance(value, tuple) else value.decode() if isinstance(value, bytes) else value


def test_rows_that_feast_wrote_are_read() -> None:
    """Every value of every datatype is the one that Feast reads, nulls are null, and an entity that nobody wrote is no row."""
    layout = layout_for(CARD, "card_stats", {"card_id": "string"})
    read = GOLDEN["read"]["card_stats"]
    *known, nobody = [entity.encode() for entity in read["card_id"]]

    *rows, missing = layout.decode(answered(layout.commands([*known, nobody])))

    assert missing is None
    for number, row in enumerate(rows):
        values = dict(zip((name for name, _ in CARD.columns), CARD.unpack(row or b"").values, strict=True))
        assert {name: plain(value) for name, value in values.items()} == {n: read[n][number] for n in values}
        assert CARD.unpack(row or b"").event_time_us == GOLDEN["event_time_us"]


@pytest.mark.parametrize("names", [("limit",), ("ratio", "visits"), ("declines", "vip", "limit")])
def test_some_features_are_read_alone(names: tuple[str, ...]) -> None:
    """A view of fewer features, without texts and vectors, is read in a batch and gives the same values."""
    schema = RowFormat([column for column in CARD.columns if column[0] in names])
    layout = layout_for(schema, "card_stats", {"card_id": "string"})
    read = GOLDEN["read"]["card_stats"]

    rows = layout.decode(answered(layout.commands([entity.encode() for entity in read["card_id"]])))

    expected = [tuple(read[name][at] for name, _ in schema.columns) for at in range(len(rows) - 1)]
    assert [schema.unpack(row or b"").values for row in rows[:-1]] == expected
    assert rows[-1] is None


def test_entities_of_several_join_keys_are_found() -> None:
    """Join keys stand in the order of their names whatever that of the view's, each id with its type."""
    schema = RowFormat([("n", "INT64")])
    setting = {"fields": {"n": "count_7d"}, "join_keys": {"shop_id": "INT64", "card": "STRING"}}
    layout = layout_for(schema, "trips", {"shop": "int", "payer": "string"}, **setting)
    entities = [joined_ids([b"42", b"c-1"]), joined_ids([b"43", b"c-2"]), joined_ids([b"43", b"c-1"])]

    first, second, third = layout.decode(answered(layout.commands(entities)))

    assert [schema.unpack(row or b"").values for row in (first, second)] == [(3,), (4,)]
    assert third is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"", 0),
        (b"test", 0xBA6BD213),
        (b"Hello, world!", 0xC0363E43),
        (b"aaa", 0xB4D05FB7),
        (b"\xff\xff\xff\xff", 0x76293B50),
    ],
)
def test_murmur3_is_the_published_function(text: bytes, value: int) -> None:
    """The values with seed 0 that the package mmh3, which Feast uses, gives."""
    assert murmur3_32(text) == value


def test_an_id_that_its_type_can_not_hold_is_nobody() -> None:
    """A text where Feast has a number names a key that Feast never writes, and no error."""
    keys = FeastKeys("p", {"n": "INT32"})

    assert keys.key(b"7") == bytes.fromhex("0100000002000000010000006e") + struct.pack("<IIi", 3, 4, 7) + b"p"
    assert keys.key(b"x") == keys.key(b"99999999999")
    assert feature_field("card_stats", "limit") == bytes.fromhex("458ff241")


@pytest.mark.parametrize("text", [b" 7", b"07", b"+7", b"0_7", b"7\n", b"-0", b"\xd9\xa7"])
def test_an_int_has_one_spelling(text: bytes) -> None:
    """What Python would read as 7 or 0 too is another entity's id, and nobody's here."""
    keys = FeastKeys("p", {"n": "INT64"})

    assert keys.key(text) == keys.key(b"x")
    assert keys.key(b"-7") != keys.key(b"x")


CODEC = FeastCodec()


@pytest.mark.parametrize(
    ("column", "raw", "words"),
    [
        (Column("f", "FP32"), "290000000000000000", "expected FP32, got double_val of Feast"),
        (Column("f", "INT64"), "350000c03f", "expected INT64, got float_val of Feast"),
        (Column("f", "FP32"), "350000c0", "cut off"),
        (Column("f", "FP32"), "35", "cut off"),
        (Column("f", "FP32"), "350000c03f350000c03f", "expected a Value of Feast, got 2 fields"),
        (Column("f", "FP32"), "3001", "field 6 of a Value has wire type 0"),
        (Column("f", "INT8"), "208001", "expected INT8, got 128"),
        (Column("f", "UINT64"), "20ffffffffffffffffff01", "expected UINT64, got -1"),
        (Column("f", "INT64"), "20ffffffffffffffffffff01", "cut off"),
        (Column("f", "INT64"), "a2010a", "cut off"),
        (Column("f", "BYTES"), "1a00", "wire type 2|got int32_val"),
        (Column("f", "FP32"), "82010e0a0c0000003f0000c0bf00000040", "expected FP32, got float_list_val"),
        (Column("f", "FP32", (2,)), "82010e0a0c0000003f0000c0bf00000040", "expected 2 elements, got 3"),
        (Column("f", "FP32", (3,)), "82010d0a0b0000003f0000c0bf000000", "cut off"),
        (Column("f", "FP32", (3,)), "350000c03f", r"expected FP32\[3\], got float_val"),
        (Column("f", "INT64", (1,)), "72021001", "field 2 in a list"),
        (Column("f", "INT64"), "f00100", "got field 30 of Feast"),
        (Column("f", "INT64"), "27", "wire type 7"),
    ],
)
def test_what_is_no_such_value_is_refused(column: Column, raw: str, words: str) -> None:
    """Another kind, a value that the datatype can't hold, and bytes that are no message are told, and never read by guessing."""
    with pytest.raises(ValueError, match=words):
        CODEC.value(bytes.fromhex(raw), column)


def test_a_list_may_be_unpacked() -> None:
    """Elements one by one, as any parser of protobuf has to accept them."""
    raw = bytes.fromhex("82010a0d0000003f0d0000c0bf")

    assert CODEC.value(raw, Column("f", "FP32", (2,))) == [0.5, -1.5]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(*[st.none() | st.binary(max_size=12)] * 4).map(list), min_size=1, max_size=4), st.booleans())
def test_any_bytes_are_a_row_or_foreign(replies: list[list[bytes | None]], near: bool) -> None:
    """Whatever the fields hold is a row, none, or a foreign one, never a crash; and the same by itself as in a batch."""
    schema = RowFormat([("x", "FP32"), ("y", "FP64"), ("n", "INT64")])
    layout = layout_for(schema, "v", {"e": "string"})
    if near:  # bytes that begin like values
        tags = [b"\x35", b"\x29", b"\x20", b"\x08"]
        replies = [[None if r is None else t + r for t, r in zip(tags, reply, strict=True)] for reply in replies]

    together = layout.decode(replies)

    for row, reply in zip(together, replies, strict=True):
        alone, _ = layout.decode([reply, [b"\xff"] * 4])  # beside a bad one, rows are read one by one
        assert (row, getattr(row, "why", "")) == (alone, getattr(alone, "why", ""))
        assert row is None or isinstance(row, UnreadableRow) or not schema.why_foreign(row)


def test_a_row_without_its_time_is_foreign() -> None:
    """Values without the view's timestamp are no row of Feast; they are never taken for one of 1970."""
    schema = RowFormat([("x", "FP32")])

    (row,) = layout_for(schema, "v", {"e": "string"}).decode([[bytes.fromhex("350000c03f"), None]])

    assert schema.why_foreign(row or b"") == 'event time: no field "_ts:v"'


def test_settings_that_contradict_the_view_are_refused() -> None:
    """As many join keys as the entity has ids."""
    setting = FeastSetting(project="p", join_keys={"a": "STRING", "b": "STRING"})

    assert faults_of(setting, RowFormat([("x", "FP32")]), entity={"card_id": "string"}, aged=True) == [
        "layout.join_keys: expected 1, one for each id of the entity"
    ]
