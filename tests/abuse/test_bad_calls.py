"""Calls that no gRPC library would send, at a real predictor on Envoy: each gets its status and harms nobody.

The statuses are grpcio's own where it has one (`tests/unit/transport`); a stream that HTTP/2 itself forbids is reset.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping

import pytest
from e2e_wire import DATA, HEADERS, frame, packed

from tests.abuse.attacker import ALL, CONTINUATION, END, framed, head, numbered, opened
from tests.abuse.victim import MIB, Victim, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 4, 8, 12, 13
GOOD = framed(request().SerializeToString())
LIMIT = 4 * MIB
BOMB = bytes(64 * MIB)

BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", UNIMPLEMENTED, "none came"),
    "half a prefix": (GOOD[:3], INTERNAL, "ends within a message"),
    "half a message": (GOOD[:-3], INTERNAL, "ends within a message"),
    "two messages": (GOOD * 2, UNIMPLEMENTED, "more came"),
    "a message and a half": (GOOD + GOOD[:7], UNIMPLEMENTED, "more came"),
    "no message of protobuf": (framed(b"\xff" * 100), INVALID_ARGUMENT, "ModelInfer"),
    "a flag that there is not": (b"\x07" + GOOD[1:], INTERNAL, "expected 0 or 1"),
    "compressed by nothing": (framed(b"abc", compressed=1), INTERNAL, "names no compression"),
    "one byte over the limit": (framed(b"", size=LIMIT + 1), RESOURCE_EXHAUSTED, "larger than max"),
    "four GiB, it says": (framed(b"abc", size=0xFFFF_FFFF), RESOURCE_EXHAUSTED, "larger than max"),
}


@pytest.mark.parametrize("case", BODIES)
async def test_a_body_that_is_no_call_is_refused(victim: Victim, case: str) -> None:
    """With the status that tells why, on a connection that goes on."""
    body, status, words = BODIES[case]
    async with opened(victim.port) as attacker:
        outcome = await attacker.outcome(attacker.call(body))

        assert (outcome.status, words in outcome.headers["grpc-message"]) == (status, True), outcome
        assert (await attacker.outcome(attacker.call(GOOD))).status == OK


METADATA: dict[str, tuple[tuple[str | bytes, str | bytes], int, str]] = {
    "no base64": (("x-data-bin", "!!!"), INTERNAL, "expected base64"),
    "base64 that is cut": (("x-data-bin", "YWJjZ"), INTERNAL, "expected base64"),
    "a timeout without a number": (("grpc-timeout", "soon"), INTERNAL, "grpc-timeout"),
    "a timeout of nine digits": (("grpc-timeout", "123456789S"), INTERNAL, "grpc-timeout"),
    "a timeout before now": (("grpc-timeout", "-1S"), INTERNAL, "grpc-timeout"),
    "a timeout of nothing": (("grpc-timeout", "0n"), DEADLINE_EXCEEDED, "Deadline"),
    "an encoding that we do not have": (("grpc-encoding", "br"), UNIMPLEMENTED, "grpc-encoding"),
}


@pytest.mark.parametrize("case", METADATA)
async def test_metadata_that_cannot_be_read_are_refused(victim: Victim, case: str) -> None:
    """The text says which."""
    pair, status, words = METADATA[case]
    async with opened(victim.port) as attacker:
        outcome = await attacker.outcome(attacker.call(GOOD, [pair]))

        assert (outcome.status, words in outcome.headers["grpc-message"]) == (status, True), outcome
        assert (await attacker.outcome(attacker.call(GOOD))).status == OK


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_is_unpacked_no_further_than_a_message(victim: Victim, encoding: str) -> None:
    """Sixteen at a time, of 64 KiB each, which would be a GiB."""
    bomb = framed({"gzip": gzip.compress, "deflate": zlib.compress}[encoding](BOMB), compressed=1)
    async with opened(victim.port) as attacker:
        streams = []
        for _ in range(16):
            streams.append(attacker.call(end=False, metadata=[("grpc-encoding", encoding)]))
            await attacker.push(streams[-1], bomb, end=True)

        outcomes = [await attacker.outcome(stream) for stream in streams]

        assert {outcome.status for outcome in outcomes} == {RESOURCE_EXHAUSTED}
        assert all("Decompressed message larger than max" in each.headers["grpc-message"] for each in outcomes)


async def test_a_message_over_the_limit_is_not_read(victim: Victim) -> None:
    """A caller who goes on sending finds its stream reset after the first window or two."""
    async with opened(victim.port) as attacker:
        stream = attacker.call(framed(b"", size=64 * MIB), end=False)

        sent = await attacker.push(stream, bytes(64 * MIB))

        assert attacker.streams[stream].status == RESOURCE_EXHAUSTED
        assert sent < 8 * MIB


UNFIT: dict[str, tuple[dict[str, str | None], list[tuple[str | bytes, str | bytes]], int | None, str | None]] = {
    "a path that is no UTF-8": ({":path": "/%ff/x"}, [], UNIMPLEMENTED, "200"),
    "a path that is raw bytes": ({":path": "/a\x80/x"}, [], UNIMPLEMENTED, "200"),
    "no te": ({"te": None}, [], UNIMPLEMENTED, "200"),
    "another te": ({"te": "gzip"}, [], None, None),
    "another content": ({"content-type": "application/json"}, [], None, "415"),
    "grpc-web": ({"content-type": "application/grpc-web"}, [], None, "415"),
    "no content type": ({"content-type": None}, [], None, "415"),
    "another method": ({":method": "CONNECT"}, [], None, None),
    "no authority": ({":authority": None}, [], None, None),
    "a length that is not so": ({}, [("content-length", "3")], None, None),
    "a nul": ({}, [("x-a", "a\0b")], None, None),
    "a line break": ({}, [("x-a", "a\r\nx-b: c")], None, None),
    "a name in capitals": ({}, [("X-A", "b")], None, None),
    "a header of connections": ({}, [("connection", "close")], None, None),
    "two paths": ({}, [(":path", "/a/b")], None, None),
}


@pytest.mark.parametrize("case", UNFIT)
async def test_what_is_no_grpc_call_ends_at_once(victim: Victim, case: str) -> None:
    """Refused or reset, never left hanging; the call beside it on the connection is answered."""
    replaced, more, status, http_status = UNFIT[case]
    async with opened(victim.port) as attacker:
        beside = attacker.call(GOOD)
        stream = attacker.stream()
        attacker.send(frame(HEADERS, ALL, stream, packed(head(replaced=replaced, metadata=more))))
        attacker.send(frame(DATA, END, stream, GOOD))

        outcome = await attacker.outcome(stream)

        assert outcome.status == status
        assert (
            (outcome.headers.get(":status") == http_status)
            if http_status
            else outcome.reset or refused(outcome.headers)
        )
        assert [(await attacker.outcome(each)).status for each in (beside, attacker.call(GOOD))] == [OK, OK]


async def test_the_end_of_a_request_has_many_forms(victim: Victim) -> None:
    """With the head, with trailers, with a frame of no bytes: the call ends, whichever it is."""
    async with opened(victim.port) as attacker:
        alone, trailed, empty = (attacker.stream() for _ in range(3))
        attacker.send(frame(HEADERS, ALL | END, alone, packed(head())))
        attacker.send(frame(HEADERS, ALL, trailed, packed(head())) + frame(DATA, 0, trailed, GOOD))
        attacker.send(frame(HEADERS, ALL | END, trailed, packed([("x-late", "1")])))
        attacker.send(frame(HEADERS, ALL, empty, packed(head())) + frame(DATA, 0, empty, GOOD))
        attacker.send(frame(DATA, END, empty))

        assert [(await attacker.outcome(each)).status for each in (alone, trailed, empty)] == [UNIMPLEMENTED, OK, OK]


@pytest.mark.parametrize(("count", "size"), [(300, 1), (3, 10_000), (1, 60_000)])
async def test_too_many_headers_end_their_call_alone(victim: Victim, count: int, size: int) -> None:
    """By their number or by their bytes; Python never sees them, and the connection goes on."""
    async with opened(victim.port) as attacker:
        beside = attacker.call(GOOD)
        stream = attacker.stream()
        attacker.send(blocks(stream, numbered(count, size)) + frame(DATA, END, stream, GOOD))

        outcome = await attacker.outcome(stream)

        assert outcome.reset is not None
        assert [(await attacker.outcome(each)).status for each in (beside, attacker.call(GOOD))] == [OK, OK]


async def test_the_bounds_of_a_connection_are_told(victim: Victim) -> None:
    """Its calls, what may be pushed at a method that does not read, and the length of headers: nobody need find them out."""
    async with opened(victim.port) as attacker:
        await attacker.outcome(attacker.call(GOOD))

        assert (attacker.settings[3], attacker.settings[4], attacker.settings[6]) == (1024, MIB, 16 << 10)


async def test_names_that_callers_make_up_are_not_kept(victim: Victim) -> None:
    """Twenty thousand names of metadata on one connection: HPACK's table and ours have bounds."""
    async with opened(victim.port) as attacker:
        for batch in range(200):
            stream = attacker.call(GOOD, [(f"x-{batch}-{each}", "v") for each in range(100)])
            assert (await attacker.outcome(stream)).status == OK


def refused(headers: Mapping[str, str]) -> bool:
    return headers.get(":status", "200") >= "400" or headers.get("grpc-status", "0") != "0"


def blocks(stream: int, metadata: list[tuple[str, str]]) -> bytes:
    """The headers of a call, in as many frames as they take."""
    block = packed(head(metadata=metadata))
    parts = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    last = len(parts) - 1
    return b"".join(
        frame(CONTINUATION if at else HEADERS, ALL if at == last else 0, stream, part) for at, part in enumerate(parts)
    )
