"""Callers who keep Envoy waiting, with a real one whose times are short: each wait has an end."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import grpc
from e2e_wire import DATA, HEADERS, frame, packed

from tests.abuse.attacker import framed, head, opened

from .conftest import call, channel

SHORT_S = 0.3
PID = "/test.Engine/Pid"


async def test_a_connection_that_says_nothing_is_closed(supervised: Callable[..., Any]) -> None:
    """Before HTTP/2 has begun nothing pings it: not a byte, half a preface, half the headers of a call."""
    async with supervised(headers_within_s=SHORT_S) as it:
        await it.until_ready()
        async with (
            opened(it.grpc_port, begins=False) as silent,
            opened(it.grpc_port, begins=False) as stammering,
            opened(it.grpc_port, polite=False) as slow,  # an answer to settings may not stand between headers
        ):
            stammering.send(b"PRI * HT")
            stream = slow.stream()
            slow.send(frame(HEADERS, 0, stream, packed(head(PID))))

            await asyncio.gather(silent.until(), stammering.until(), slow.until(stream))

        async with channel(it.target) as opened_:
            await call(opened_, "Pid")


async def test_a_connection_that_does_not_answer_pings_is_closed(supervised: Callable[..., Any]) -> None:
    """Its machine may be gone; the calls on it end with it."""
    async with supervised(ping_every_s=SHORT_S, ping_within_s=SHORT_S) as it, channel(it.target) as polite:
        await it.until_ready()
        async with opened(it.grpc_port, polite=False) as gone:
            watched = gone.call(framed(b""), path="/test.Engine/Watch")
            await gone.until_seen(DATA)

            await gone.until()

            assert not gone.streams[watched].is_over
        await call(polite, "Pid")


async def test_an_idle_connection_is_ended_gently(supervised: Callable[..., Any]) -> None:
    """A client of gRPC connects again when it calls again; one with a call is not idle, however silent."""
    async with supervised(idle_s=SHORT_S) as it, channel(it.target) as idle:
        await it.until_ready()
        async with opened(it.grpc_port) as watching:
            watching.call(framed(b""), path="/test.Engine/Watch")
            await watching.until_seen(DATA)
            await call(idle, "Pid")

            async with asyncio.timeout(10):
                while (state := idle.get_state()) is grpc.ChannelConnectivity.READY:
                    await idle.wait_for_state_change(state)

            assert state is grpc.ChannelConnectivity.IDLE
            await call(idle, "Pid")
            assert watching.goaway is None and not watching.is_closed


async def test_an_answer_that_nobody_takes_is_dropped(supervised: Callable[..., Any]) -> None:
    """The program is done with it; a caller who takes it bit by bit gets it whole."""
    async with supervised(unread_s=SHORT_S) as it:
        await it.until_ready()
        async with opened(it.grpc_port, window=0, polite=False) as attacker:
            left, taken = (attacker.call(framed(b""), path=PID) for _ in range(2))
            await attacker.until_seen(HEADERS, 2)
            more = struct.pack(">I", 1000)
            attacker.send(frame(8, 0, taken, more))

            await attacker.until(left, taken)

            assert attacker.streams[left].reset is not None
            assert attacker.streams[taken].status == 0
