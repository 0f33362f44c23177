"""Frames and header blocks, beside hpack, which others have tested."""

from __future__ import annotations

import pytest
from hpack import Encoder
from hpack.hpack import decode_integer
from hypothesis import given
from hypothesis import strategies as st

from infermesh.transport.http2.frames import Blocks, ProtocolError, integer, literal, unpadded
from infermesh.transport.http2.heads import Heads, timeout

NAMES = st.binary(min_size=1, max_size=200)


@given(st.integers(0, 2**31), st.integers(4, 7))
def test_integers_are_those_of_hpack(value: int, bits: int) -> None:
    """What is written is read as the same number, and to its end."""
    written = integer(value, bits)

    assert decode_integer(written, bits) == (value, len(written))


@given(st.dictionaries(NAMES, st.binary(max_size=500), max_size=5))
def test_literals_are_read_as_they_were_meant(headers: dict[bytes, bytes]) -> None:
    """Any name and value, also past 126 bytes, where a length takes more than one."""
    block = b"".join(literal(name, value) for name, value in headers.items())

    assert Blocks().decoded(block) == headers


def test_a_call_begins_with_what_grpc_asks_for() -> None:
    """Method, path, te and content type, the time that is left, and the metadata as they are."""
    head = Heads("backend:8001").of("/a.B/C", 1.5, [("x-request-id", "r" * 130), ("baggage", "")])

    assert Blocks().decoded(head) == {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/a.B/C",
        b":authority": b"backend:8001",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"user-agent": Blocks().decoded(head)[b"user-agent"],
        b"grpc-timeout": b"1500000u",
        b"x-request-id": b"r" * 130,
        b"baggage": b"",
    }


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.0, b"1u"), (99.999999, b"99999999u"), (100.0, b"100000m"), (99_999.999, b"99999999m"), (1e9, b"99999999m")],
)
def test_a_timeout_has_eight_digits_at_most(seconds: float, written: bytes) -> None:
    """gRPC takes no more; nothing left is told as the least there is, since 0 has no meaning of its own."""
    assert timeout(seconds) == written


def test_a_block_that_uses_a_table_is_refused() -> None:
    """The server was told that there is none: what it means can't be known."""
    encoder = Encoder()
    encoder.encode([("x-remembered", "1")])
    again = encoder.encode([("x-remembered", "1")])

    with pytest.raises(ProtocolError, match="can't be decoded"):
        Blocks().decoded(again)


def test_blocks_that_fit_no_table_are_understood() -> None:
    """Huffman's code, the standard's own entries, and entries for a table that has no room for them."""
    encoder = Encoder()
    encoder.header_table_size = 0
    headers = {b":status": b"200", b"content-type": b"application/grpc", b"x-new": b"value"}
    blocks = Blocks()

    first = blocks.decoded(encoder.encode(headers.items()))

    assert first == headers
    assert blocks.decoded(encoder.encode(headers.items())) == headers


@pytest.mark.parametrize(
    ("flags", "payload", "expected"),
    [(0, b"abc", b"abc"), (8, b"\x02abc\0\0", b"abc"), (32, b"\0\0\0\0\0abc", b"abc"), (8, b"\x00", b"")],
)
def test_padding_and_priority_are_no_content(flags: int, payload: bytes, expected: bytes) -> None:
    """They stand before and behind what a frame carries."""
    assert unpadded(flags, payload) == expected


@pytest.mark.parametrize(("flags", "payload"), [(8, b""), (8, b"\x05abc"), (32, b"abc")])
def test_more_padding_than_there_is_room_for_is_refused(flags: int, payload: bytes) -> None:
    """Nothing is read from beyond the frame."""
    with pytest.raises(ProtocolError, match="padding"):
        unpadded(flags, payload)
