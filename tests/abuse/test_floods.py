"""Floods of frames, calls and connections at a real predictor on Envoy: whoever floods loses it, others are served."""

from __future__ import annotations

import asyncio
import struct
from contextlib import AsyncExitStack

import pytest
from e2e_wire import DATA, HEADERS, RST_STREAM, frame, packed

from infermesh.engine.envoy_config import MAX_TAKEN_BACK
from tests.abuse.attacker import ALL, CONTINUATION, PING, SETTINGS, WINDOW_UPDATE, Attacker, framed, head, opened
from tests.abuse.conftest import MAX_CONNECTIONS
from tests.abuse.victim import Victim, request, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK = 0
GOOD = framed(request().SerializeToString())
WATCH = "/grpc.health.v1.Health/Watch"
PRIORITY = 2
FRAMES = 20_000


async def flooded(attacker: Attacker, data: bytes, times: int) -> None:
    """Send this again and again, until the connection is ended: it must be."""
    for _ in range(times // 100):
        attacker.send(data * 100)
        await attacker.flushed()
        if attacker.is_closed:
            return
    await attacker.until()


CONTINUED = (b"", packed([("x-a", "b")]), packed([("x-a", "b" * 10_000)]))


async def test_headers_that_never_end_end_the_connection(victim: Victim) -> None:
    """A flood of CONTINUATION frames (CVE-2024-27316, CVE-2024-30255) is read no further than headers may be long."""

    async def flood(part: bytes) -> None:
        async with opened(victim.port) as attacker:
            stream = attacker.stream()
            attacker.send(frame(HEADERS, 0, stream, packed(head())))
            await flooded(attacker, frame(CONTINUATION, 0, stream, part), FRAMES)

    before = (await victim.stats())["downstream_cx_rx_bytes_total"]
    await asyncio.gather(*map(flood, CONTINUED))
    assert (await victim.stats())["downstream_cx_rx_bytes_total"] - before < 16 << 20  # of 200 MB


async def test_calls_that_are_taken_back_at_once_end_the_connection(victim: Victim) -> None:
    """Rapid reset (CVE-2023-44487): each call is taken back in the packet that brings it. Others are answered meanwhile."""
    before = (await victim.stats())["downstream_rq_rx_reset"]
    async with opened(victim.port) as attacker:
        innocent = asyncio.ensure_future(victim.innocent())
        for at in range(3 * MAX_TAKEN_BACK):
            attacker.reset(attacker.call(GOOD))
            if at % 20 == 0:
                await attacker.flushed()
            if attacker.is_closed:
                break
        await attacker.until()
        await innocent

    assert (await victim.stats())["downstream_rq_rx_reset"] - before <= MAX_TAKEN_BACK + 1024


async def test_callers_with_short_deadlines_may_give_up(victim: Victim) -> None:
    """Two thousand calls of one connection that their callers take back, as a gateway's before a hung model, cut no other call
    on it: the bounds against floods, of Envoy (500) and of nghttp2 (1,000), are made for browsers."""
    async with opened(victim.port) as gateway:
        watched = gateway.call(framed(b""), path=WATCH)
        await gateway.until_seen(DATA)
        for _ in range(2000):
            gateway.reset(gateway.call(GOOD))
        await gateway.flushed()

        assert (await gateway.outcome(gateway.call(GOOD))).status == OK
        assert not gateway.streams[watched].is_over


CONTROL = {
    "PING": frame(PING, 0, 0, bytes(8)),
    "SETTINGS": frame(SETTINGS, 0, 0),
    "SETTINGS of six": frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535) * 6),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
    "empty DATA": frame(DATA, 0, 1),
}


async def test_frames_that_carry_nothing_end_the_connection(victim: Victim) -> None:
    """Twenty thousand of a kind, all kinds at a time; answers to them that are not taken are not piled up either."""

    async def flood(data: bytes) -> None:
        async with opened(victim.port) as attacker:
            assert attacker.call(GOOD, end=False) == 1
            await flooded(attacker, data, FRAMES)

    await asyncio.gather(*map(flood, CONTROL.values()))


async def test_a_stream_that_was_reset_may_be_reset_again(victim: Victim) -> None:
    """Thousands of resets of streams that are over or never were cost nothing but the connection."""
    async with opened(victim.port) as attacker:
        await attacker.outcome(attacker.call(GOOD))

        await flooded(attacker, frame(RST_STREAM, 0, 1, struct.pack(">I", 8)) + frame(RST_STREAM, 0, 99, bytes(4)), 200)


BROKEN = {
    "HTTP/1.1": b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 100,
    "noise": bytes(range(256)) * 64,
    "a frame of 16 MiB": b"\xff\xff\xff" + bytes(6) + bytes(100),
    "data for no call": frame(DATA, 1, 99, GOOD),
    "a window past its end": frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFF_FFFF)) * 2,
    "a window of nothing": frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "a setting that cannot be": frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0xFFFF_FFFF)),
    "headers that HPACK cannot read": frame(HEADERS, ALL, 1, b"\xff" * 50),
    "an even stream": frame(HEADERS, ALL, 2, packed(head())),
}


async def test_bytes_that_are_no_http2_end_the_connection(victim: Victim) -> None:
    """With or without a word."""

    async def ended(case: str) -> str:
        async with opened(victim.port, begins=case not in ("HTTP/1.1", "noise")) as attacker:
            attacker.send(BROKEN[case])
            await attacker.until()
        return case

    assert await asyncio.gather(*map(ended, BROKEN)) == [*BROKEN]


async def test_streams_of_a_connection_have_a_bound(victim: Victim) -> None:
    """Of 1,100 that are opened before the bound is heard of, those over 1,024 are refused; the others go on."""
    async with opened(victim.port) as attacker:
        streams = [attacker.call(framed(b""), path=WATCH) for _ in range(1100)]
        await attacker.until_seen(DATA, 1024)

        await attacker.until(*streams[1024:])

        assert {attacker.streams[each].reset for each in streams[1024:]} == {7}  # REFUSED_STREAM: it may be tried again
        assert not [each for each in streams[:1024] if attacker.streams[each].is_over]


async def test_connections_have_a_bound(victim: Victim) -> None:
    """Half as many again as there may be: those over it are closed at once, and their places are free when others go."""
    async with AsyncExitStack() as connections:
        attackers = [
            await connections.enter_async_context(opened(victim.port))
            for _ in range(MAX_CONNECTIONS + MAX_CONNECTIONS // 2)
        ]
        streams = [attacker.call(GOOD) for attacker in attackers]
        outcomes = [await attacker.outcome(stream) for attacker, stream in zip(attackers, streams, strict=True)]

        answered = sum(outcome.status is not None for outcome in outcomes)
        assert answered == MAX_CONNECTIONS - 1  # one is the innocent caller's
        assert sum(attacker.is_closed for attacker in attackers) == len(attackers) - answered
        await victim.innocent()

    async def has_room() -> bool:
        return (await victim.stats())["downstream_cx_active"] < MAX_CONNECTIONS

    await until(has_room)
    async with opened(victim.port) as late:
        assert (await late.outcome(late.call(GOOD))).status == OK
