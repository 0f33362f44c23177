"""Messages that come compressed."""

from __future__ import annotations

import contextlib
import gzip
import zlib

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.transport.asgi.encodings import accepts, check_encoding, packed, unpacked
from infermesh.transport.asgi.wire import WireError

KINDS = pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])


@KINDS
@given(data=st.binary(max_size=2000))
def test_a_message_comes_back_from_its_packing(encoding: bytes, data: bytes) -> None:
    """Up to the very limit."""
    assert unpacked(packed(data, encoding), encoding, len(data)) == data


def test_others_packings_are_read() -> None:
    """gRPC's deflate is zlib's format."""
    assert unpacked(gzip.compress(b"abc"), b"gzip", 10) == b"abc"
    assert unpacked(zlib.compress(b"abc"), b"deflate", 10) == b"abc"


@KINDS
def test_a_bomb_is_unpacked_no_further_than_the_limit(encoding: bytes) -> None:
    """Sixteen megabytes in a few kilobytes are refused after the first thousand bytes."""
    bomb = packed(bytes(16 << 20), encoding)

    with pytest.raises(WireError, match=r"larger than max \(1001 or more vs. 1000\)") as refused:
        unpacked(bomb, encoding, 1000)

    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@KINDS
@pytest.mark.parametrize(
    ("spoil", "said"),
    [(lambda data: data[:-3], "early"), (lambda data: data + b"x", "late"), (lambda data: b"x" + data, "expected")],
)
def test_spoilt_data_are_refused(encoding: bytes, spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    """What ends early, goes on, or is nothing of the kind."""
    with pytest.raises(WireError, match=said) as refused:
        unpacked(spoil(packed(b"some data", encoding)), encoding, 100)

    assert refused.value.code is grpc.StatusCode.INTERNAL


@given(st.binary(max_size=200))
def test_no_bytes_break_the_unpacking(data: bytes) -> None:
    """Every sequence of bytes is a message or is refused."""
    with contextlib.suppress(WireError):
        assert len(unpacked(data, b"gzip", 1000)) <= 1000


def test_a_packed_message_without_an_encoding_is_refused() -> None:
    """The flag says packed, the header says nothing: gRPC's INTERNAL."""
    with pytest.raises(WireError, match="names no compression"):
        unpacked(b"abc", b"identity", 10)


def test_an_encoding_that_we_do_not_have_is_unimplemented() -> None:
    """As gRPC says it, with what would be right."""
    with pytest.raises(WireError, match="got 'zstd'") as refused:
        check_encoding(b"zstd")

    assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED
    check_encoding(b"gzip")
    check_encoding(b"identity")


def test_a_caller_says_what_it_can_unpack() -> None:
    """Whole words of a list."""
    assert accepts(b"identity, deflate,gzip", b"gzip")
    assert not accepts(b"identity,xgzip", b"gzip")
    assert not accepts(b"", b"gzip")
