"""gRPC's frames, timeouts and texts, as bytes."""

from __future__ import annotations

import contextlib
import re

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.transport.asgi.wire import (
    GATHERED_BYTES,
    Frames,
    WireError,
    frame,
    is_grpc,
    percent_decoded,
    percent_encoded,
    timeout_s,
)

LIMIT = 1 << 20
MESSAGES = st.lists(st.tuples(st.binary(max_size=9000), st.booleans()), max_size=8)


def taken(parts: list[bytes], limit: int = LIMIT) -> tuple[list[tuple[bool, bytes]], bool]:
    frames, found = Frames(limit), []
    for part in parts:
        frames.feed(part)
        while (message := frames.take()) is not None:
            found.append(message)
    return found, frames.is_between


@given(MESSAGES, st.lists(st.integers(0, 40000), max_size=20))
def test_messages_do_not_depend_on_how_the_body_is_cut(messages: list[tuple[bytes, bool]], cuts: list[int]) -> None:
    """Whatever parts a body comes in, the messages are those that were framed, in their order, bit for bit."""
    body = b"".join(frame(data, compressed=compressed) for data, compressed in messages)
    ends = sorted(min(each, len(body)) for each in cuts)
    parts = [body[start:end] for start, end in zip([0, *ends], [*ends, len(body)], strict=True)]

    found, between = taken(parts)

    assert found == [(compressed, data) for data, compressed in messages]
    assert between


def test_a_body_of_single_bytes_is_gathered() -> None:
    """A sender of single bytes does not make us keep an object for each of them."""
    body = frame(bytes(range(256)) * 1024)
    frames = Frames(LIMIT)

    for at in range(len(body) - 1):
        frames.feed(body[at : at + 1])
        assert frames.take() is None

    assert len(frames._parts) <= len(body) // GATHERED_BYTES + 1
    frames.feed(body[-1:])
    assert frames.take() == (False, body[5:])


@given(st.binary(min_size=1, max_size=300), st.integers(1, 400))
def test_a_body_that_ends_within_a_message_is_seen(data: bytes, missing: int) -> None:
    """What is cut off is no message, and the body may not end there."""
    body = frame(data)
    cut = body[: max(1, len(body) - missing)]

    assert taken([cut]) == ([], False)


@given(st.integers(1, 2**32 - 1 - 100))
def test_a_message_over_the_limit_is_refused_by_its_length(over: int) -> None:
    """The prefix is enough to refuse it; none of its bytes need come."""
    frames = Frames(100)
    frames.feed(b"\0" + (100 + over).to_bytes(4, "big"))

    with pytest.raises(WireError, match=rf"larger than max \({100 + over} vs. 100\)") as refused:
        frames.take()

    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@given(st.integers(2, 255))
def test_a_first_byte_that_is_no_flag_is_refused(flag: int) -> None:
    """Garbage where a frame should begin is INTERNAL, as gRPC has it for what breaks its framing."""
    frames = Frames(100)
    frames.feed(bytes([flag]) + b"\0\0\0\0")

    with pytest.raises(WireError, match=f"got {flag}") as refused:
        frames.take()

    assert refused.value.code is grpc.StatusCode.INTERNAL


@given(st.text())
def test_a_text_comes_back_from_its_escapes(text: str) -> None:
    """Any text survives, and travels as printable ASCII in which a percent sign is always an escape."""
    value = percent_encoded(text)

    assert re.fullmatch(rb"([ -$&-~]|%[0-9A-F]{2})*", value)
    assert percent_decoded(value) == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("text", "value"), [("plain text", b"plain text"), ("100 %", b"100 %25"), ("grün\n", b"gr%C3%BCn%0A"), ("", b"")]
)
def test_texts_are_escaped_as_grpc_does(text: str, value: bytes) -> None:
    """Examples from the protocol's own rule."""
    assert percent_encoded(text) == value


def test_what_is_no_escape_stands_for_itself() -> None:
    """A sender that does not escape is read all the same."""
    assert percent_decoded(b"100% %zz %4") == "100% %zz %4"


@given(st.integers(0, 99_999_999), st.sampled_from("HMSmun"))
def test_a_timeout_is_a_number_of_its_unit(number: int, unit: str) -> None:
    """Eight digits of any unit are a finite number of seconds."""
    per = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}[unit]

    assert timeout_s(f"{number}{unit}".encode()) == pytest.approx(number * per)


BAD_TIMEOUTS = [
    b"",
    b"S",
    b"1",
    b"1s",
    b"-1S",
    b"+1S",
    b"1.5S",
    b"1 S",
    b" 1S",
    b"123456789S",
    b"1SS",
    b"\xd9\xa1S",
    b"inf",
]


@pytest.mark.parametrize("value", BAD_TIMEOUTS)
def test_anything_else_is_no_timeout(value: bytes) -> None:
    """A deadline that can't be read is no reason to work without one."""
    with pytest.raises(WireError, match="grpc-timeout: expected") as refused:
        timeout_s(value)

    assert refused.value.code is grpc.StatusCode.INTERNAL


@given(st.binary(max_size=30))
def test_no_timeout_breaks_the_reader(value: bytes) -> None:
    """Every value is seconds or is refused."""
    with contextlib.suppress(WireError):
        assert 0 <= timeout_s(value) < 1e12


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_only_grpcs_own_content_type_is_grpc(content_type: bytes, *, expected: bool) -> None:
    """gRPC-Web has frames of another kind."""
    assert is_grpc(content_type) is expected
