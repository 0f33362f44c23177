"""The short way of rows whose values are all there: it gives what the long ways give, and takes nothing that they refuse."""

from __future__ import annotations

import struct

import pytest
from hiredis import pack_command
from hypothesis import example, given
from hypothesis import strategies as st

from services.transformer.layout.feast_values import FeastCodec
from services.transformer.layout.fields import Fields
from services.transformer.redis.request import commands
from services.transformer.row import RowFormat, UnreadableRow
from services.transformer.schema import Column

SCHEMA = RowFormat([("a", "FP32"), ("b", "FP32"), ("city", "BYTES"), ("ratio", "FP64"), ("d", "FP32")])
USED = {"a", "b", "ratio"}
PLAIN = Fields(SCHEMA, FeastCodec(), "time", USED, FeastCodec.PLAIN)
TABLE = Fields(SCHEMA, FeastCodec(), "time", USED)
TIME = b"\x08\x80\xe2\xcf\xaa\x06"  # 1,700,000,000 s

floats = st.floats(width=32, allow_nan=False).map(lambda value: b"\x35" + struct.pack("<f", value))
doubles = st.floats(allow_nan=False).map(lambda value: b"\x29" + struct.pack("<d", value))
odd = st.sampled_from([None, b"", b"\x98\x01\x00", b"\x35", b"\x35\0\0\0", b"\x20\x05", b"\x35\0\0\0\0\x35\0\0\0\0"])
times = st.sampled_from(
    [TIME, TIME + b"\x10\xc0\x84\x3d", b"", None, b"\x08", b"\x18\x01", b"\x08" + b"\xff" * 9 + b"\x01"]
)


def of_one(fields: Fields, reply: list[bytes | None]) -> tuple[str, bytes | None]:
    """The row, and what is said of one that can't be read."""
    (row,) = fields.decode([reply])
    return type(row).__name__, row


@given(st.tuples(floats | odd, floats | odd, doubles | floats | odd, times).map(list))
@example([b"\x35\0\0\0\0\x35\0\0\0\0", b"", b"\x29" + bytes(8), TIME])  # together as long as two values
@example([b"\x35\0\0\0\0", b"\x0d\0\0\0\0", b"\x29" + bytes(8), TIME])  # as long as a value, and of no kind
def test_the_short_way_gives_what_the_table_gives(reply: list[bytes | None]) -> None:
    assert of_one(PLAIN, reply) == of_one(TABLE, reply)


def test_a_row_of_good_values_is_read() -> None:
    """Its values and event time are there; what nobody takes is null, and its text stands where it would."""
    reply = [b"\x35" + struct.pack("<f", 1.5), b"\x35" + struct.pack("<f", -2), b"\x29" + struct.pack("<d", 0.1), TIME]

    (row,) = PLAIN.decode([reply])

    read = SCHEMA.unpack(row or b"")
    assert read.values == (1.5, -2.0, None, 0.1, None)
    assert read.event_time_us == 1_700_000_000_000_000


def test_a_bad_row_harms_no_good_one() -> None:
    """A null, a value of another kind and no row at all, each beside good rows."""
    good = [b"\x35\0\0\x80\x3f", b"\x35\0\0\0\x40", b"\x29" + bytes(8), TIME]
    null, other = [b"\x35\0\0\x80\x3f", b"", *good[2:]], [b"\x20\x05", *good[1:]]

    first, second, third, fourth, last = PLAIN.decode([good, null, other, [None] * 4, good])

    assert first == last
    assert SCHEMA.unpack(second or b"").values == (1.0, None, None, 0.0, None)
    assert isinstance(third, UnreadableRow)
    assert fourth is None


def test_datatypes_of_any_length_go_the_long_way() -> None:
    """A view with an integer is read as before: a varint has no fixed place."""
    schema = RowFormat([("a", "FP32"), ("n", "INT64")])
    fields = Fields(schema, FeastCodec(), "time", None, FeastCodec.PLAIN)

    (row,) = fields.decode([[b"\x35\0\0\x80\x3f", b"\x20\xac\x02", TIME]])

    assert schema.unpack(row or b"").values == (1.0, 300)


def test_vectors_go_one_by_one() -> None:
    schema = RowFormat([Column("v", "FP32", (2,)), Column("a", "FP32")])
    fields = Fields(schema, FeastCodec(), "time", None, FeastCodec.PLAIN)
    vector = b"\x82\x01\x0a\x0a\x08" + struct.pack("<2f", 1, 2)

    (row,) = fields.decode([[vector, b"\x35\0\0\x80\x3f", TIME]])

    assert schema.unpack(row or b"").values == ((1.0, 2.0), 1.0)


@pytest.mark.parametrize(
    "command",
    [
        (b"HMGET", b"key", b"a"),
        (b"HMGET", b"", b"", b"\r\n$3", b"\0\xff"),
        (b"HMGET", b"k" * 700, *[b"field-%d" % number for number in range(60)]),
        (b"HMGET", b"key"),
        (b"MGET", b"a", b"b"),
        (b"PING",),
    ],
)
def test_a_command_goes_out_as_any_client_packs_it(command: tuple[bytes, ...]) -> None:
    """HMGET too, whose fields are packed once; asked twice, since the second comes from what was kept."""
    packed = pack_command(command)

    assert commands([command]).packed == packed
    assert commands([command, command]).packed == packed * 2
