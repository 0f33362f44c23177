"""Callers who take or give too little, or vanish, at a real predictor on Envoy: what they hold has a bound, and is freed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from e2e_wire import HEADERS, frame, packed

from tests.abuse.attacker import ALL, Attacker, Outcome, framed, head, opened
from tests.abuse.conftest import GROWTH, MAX_IN_FLIGHT
from tests.abuse.victim import MIB, Victim, request, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK, RESOURCE_EXHAUSTED = 0, 8
GOOD = framed(request().SerializeToString())
CLIENT = Path(__file__).with_name("many_streams.py")
STREAMS = 1000
LARGE = 2 * MIB
CALLS = 100
UNFINISHED = 256 * MIB


async def test_answers_that_are_not_read_have_a_bound(victim: Victim) -> None:
    """A caller whose windows are shut: as many calls as may be in flight hold their answers, the rest is refused unworked."""
    victim.may_grow = GROWTH + MAX_IN_FLIGHT * 8 * LARGE
    async with opened(victim.port, window=0, polite=False) as attacker:
        streams = [attacker.call(framed(request(LARGE // 4).SerializeToString())) for _ in range(CALLS)]

        await until_answered(attacker, streams)

        refused = [each for each in streams if attacker.streams[each].status == RESOURCE_EXHAUSTED]
        assert len(refused) == CALLS - MAX_IN_FLIGHT
        assert not [each for each in streams if attacker.streams[each].data]


async def test_a_connection_that_is_not_read_has_a_bound(victim: Victim) -> None:
    """Its windows are open and its socket is full: TCP's own slow reader."""
    victim.may_grow = GROWTH + MAX_IN_FLIGHT * 8 * LARGE
    async with opened(victim.port, window=1 << 30, reads=False) as attacker:
        before = (await victim.stats())["downstream_rq_total"]
        for _ in range(CALLS):
            attacker.call(framed(request(LARGE // 4).SerializeToString()))

        async def came() -> bool:
            return (await victim.stats())["downstream_rq_total"] - before == CALLS

        await until(came)
        assert (await victim.stats())["downstream_rq_active"] > 0


async def test_requests_that_never_end_have_a_bound(victim: Victim) -> None:
    """A hundred calls that send all of four MiB but the end: those over the bound of all together are refused, and a small call
    beside them is answered."""
    victim.may_grow = UNFINISHED + GROWTH
    async with opened(victim.port) as attacker:
        part = bytes(4 * MIB - 100)
        streams = [attacker.call(framed(b"", size=len(part) + 50), end=False) for _ in range(CALLS)]

        await asyncio.gather(*(attacker.push(stream, part) for stream in streams))

        def over() -> list[Outcome]:
            return [attacker.streams[each] for each in streams if attacker.streams[each].is_over]

        async def is_bounded() -> bool:
            return len(part) * (len(streams) - len(over())) <= UNFINISHED

        await until(is_bounded)
        assert (await attacker.outcome(attacker.call(GOOD))).status == OK
        assert {each.status for each in over()} == {RESOURCE_EXHAUSTED}
        assert len(part) * (len(streams) - len(over())) >= UNFINISHED - 4 * MIB


async def test_a_thousand_half_calls_hold_nobody_up(victim: Victim) -> None:
    """Heads without bodies, half a message, half closed streams of requests: the places are for calls that have come whole."""
    async with opened(victim.port) as attacker:
        for at in range(STREAMS):
            if at % 2:
                attacker.send(frame(HEADERS, ALL, attacker.stream(), packed(head())))
            else:
                attacker.call(GOOD[: at % len(GOOD)], end=False)
        await attacker.flushed()

        assert (await attacker.outcome(attacker.call(GOOD))).status == OK
        await victim.innocent()


async def test_a_killed_client_leaves_nothing(victim: Victim) -> None:
    """A thousand open calls of a process that is killed with SIGKILL, twice over."""
    for _ in range(2):
        client = await asyncio.create_subprocess_exec(
            sys.executable, str(CLIENT), str(victim.port), str(STREAMS), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert client.stdout is not None
            async with asyncio.timeout(30):
                assert await client.stdout.readline() == b"open\n"
            assert (await victim.stats())["downstream_rq_active"] == STREAMS
        finally:
            client.kill()
            await client.wait()

        await victim.until_free()


async def until_answered(attacker: Attacker, streams: list[int]) -> None:
    """Until each has a head or a status."""

    async def answered() -> bool:
        return all(attacker.streams[each].headers for each in streams)

    await until(answered)
