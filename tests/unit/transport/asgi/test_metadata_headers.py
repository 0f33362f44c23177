"""gRPC's metadata as headers, both ways."""

from __future__ import annotations

import base64

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.transport.asgi.metadata import decoded_metadata, encoded_metadata
from infermesh.transport.asgi.wire import WireError

NAMES = st.from_regex(r"x-[0-9a-z_.\-]{0,12}", fullmatch=True).filter(lambda name: not name.endswith("-bin"))
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126))
PLAIN = st.tuples(NAMES, TEXTS)
BINARY = st.tuples(NAMES.map(lambda name: f"{name}-bin"), st.binary(max_size=100))


@given(st.lists(st.one_of(PLAIN, BINARY)))
def test_metadata_come_back_as_they_went(metadata: list[tuple[str, str | bytes]]) -> None:
    """In their order, repeated names included; the values of -bin names are bytes."""
    assert decoded_metadata(encoded_metadata(metadata)) == metadata


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), st.booleans())
def test_binary_values_may_be_padded_and_joined(values: list[bytes], padded: bool) -> None:
    """A hop may join the values of a name by commas, and a sender may pad them."""
    texts = [base64.b64encode(each) for each in values]
    header = b", ".join(each if padded else each.rstrip(b"=") for each in texts)

    assert decoded_metadata([(b"x-bin", header)]) == [("x-bin", each) for each in values]


@pytest.mark.parametrize("value", [b"*", b"AAA\x80", b"A", b"AA=A", b"====", b"AA AA"])
def test_bad_base64_is_refused(value: bytes) -> None:
    """It is no metadata, and nothing that a servicer should guess at."""
    with pytest.raises(WireError, match="x-bin") as refused:
        decoded_metadata([(b"x-bin", value)])

    assert refused.value.code is grpc.StatusCode.INTERNAL


@given(st.binary(max_size=20), st.binary(max_size=30))
def test_no_header_breaks_the_reader(name: bytes, value: bytes) -> None:
    """Clients that are not gRPC send anything; it is read, or refused as what it is."""
    try:
        decoded_metadata([(name, value)])
    except WireError:
        assert name.endswith(b"-bin")


def test_what_is_the_transports_own_is_not_told() -> None:
    """Servicers see what grpcio shows them; a certificate's header is an identity or nothing."""
    headers = [
        (b"host", b"h"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"grpc-timeout", b"1S"),
        (b"grpc-accept-encoding", b"gzip"),
        (b"x-forwarded-client-cert", b"By=me"),
        (b"user-agent", b"u"),
        (b"x-a", b"1"),
        (b"x-latin", b"\xe9"),
    ]

    assert decoded_metadata(headers) == [("user-agent", "u"), ("x-a", "1"), ("x-latin", "é")]


@pytest.mark.parametrize(
    "pair",
    [
        ("X-A", "1"),
        ("", "1"),
        ("x a", "1"),
        ("grpc-status", "0"),
        ("content-type", "x"),
        ("x", "a\nb"),
        ("x", "é"),
        (1, "1"),
    ],
)
def test_what_a_header_cannot_carry_is_refused_where_it_is_set(pair: tuple[str, str]) -> None:
    """A host would lose the whole status with it, and the caller would wait for ever."""
    with pytest.raises(ValueError, match="expected"):
        encoded_metadata([pair])


def test_the_rich_status_may_be_sent() -> None:
    """Of the names that begin with grpc- those that are a servicer's to set go through."""
    metadata = [("grpc-status-details-bin", b"\x08\x05"), ("grpc-retry-pushback-ms", "100")]

    assert encoded_metadata(metadata) == [(b"grpc-status-details-bin", b"CAU"), (b"grpc-retry-pushback-ms", b"100")]
