"""Memory after many calls, good and bad: what is alive does not depend on how many there were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
from e2e_wire import DATA

from tests.abuse.attacker import Attacker, framed, opened
from tests.abuse.victim import MIB, Counted, Victim, request, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICE = "/test.Counted/"
SMALL = framed(b"a" * 100)
EACH = 500
FEW = 40  # objects that come and go with the loop's timers and this test's own question


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def counted() -> AsyncIterator[Counted]:
    async with Counted() as program:
        yield program


async def test_no_object_is_left_of_five_thousand_calls(counted: Counted) -> None:
    """Of calls that are answered, fail, are taken back, cut in the middle, and whose connection goes; of all kinds of methods."""
    await abuse(counted, 50)
    before = await counted.objects()

    await abuse(counted, EACH)

    after = await counted.objects()
    assert {name: after[name] for name in ("contexts", "unfinished", "in_flight")} == dict.fromkeys(
        ("contexts", "unfinished", "in_flight"), 0
    )
    await until(lambda: no_more_tasks(counted, before["tasks"]))
    assert after["objects"] - before["objects"] < FEW


async def no_more_tasks(counted: Counted, than: int) -> bool:
    """The supervisor asks how the program is several times a second, and a question under way is a task."""
    return (await counted.objects())["tasks"] <= than


async def abuse(counted: Counted, each: int) -> None:
    """So many calls of each of ten sorts, on two connections, of which one is dropped with its calls."""
    async with opened(counted.port) as caller, opened(counted.port) as leaver:
        for _ in range(each):
            streams = [
                caller.call(SMALL, path=f"{SERVICE}Echo"),
                caller.call(framed(b"fail"), path=f"{SERVICE}Echo"),
                caller.call(SMALL[:-5], path=f"{SERVICE}Echo"),
                caller.call(SMALL * 2, path=f"{SERVICE}Echo"),
                caller.call(SMALL * 3, path=f"{SERVICE}Collect"),
                caller.call(SMALL * 3, path=f"{SERVICE}Chat"),
                caller.call(SMALL, [("grpc-timeout", "1m")], path=f"{SERVICE}Hang"),
                caller.call(SMALL, path=f"{SERVICE}Nothing"),
            ]
            taken_back = caller.call(SMALL[:-5], path=f"{SERVICE}Chat", end=False)
            caller.reset(taken_back)
            await caller.until(*streams)
        for _ in range(each):
            leaver.call(SMALL[:-1], path=f"{SERVICE}Collect", end=False)
        last = leaver.call(SMALL, path=f"{SERVICE}Chat", end=False)
        await leaver.until_seen(DATA)
        assert not leaver.streams[last].is_over
    await counted.until_free()


@pytest.mark.long
async def test_memory_is_flat_over_two_hundred_thousand_calls(tmp_path: Path) -> None:
    """Of a real predictor, 64 in flight: what it has after 200,000 is what it had after 50,000."""
    good = framed(request().SerializeToString())
    resident: dict[int, int] = {}
    async with Victim(tmp_path) as victim:
        async with opened(victim.port) as caller:
            done = 0
            while done < 200_000:
                await asyncio.gather(*(one_after_the_other(caller, good, 5_000 // 50) for _ in range(50)))
                done += 5_000
                resident[done] = victim.resident_bytes
                caller.streams.clear()
        await victim.until_free()

    assert abs(resident[200_000] - resident[50_000]) < 2 * MIB, in_mib(resident)


async def one_after_the_other(caller: Attacker, body: bytes, count: int) -> None:
    for _ in range(count):
        assert (await caller.outcome(caller.call(body))).status == 0


def in_mib(resident: Mapping[int, int]) -> str:
    return ", ".join(f"{calls}: {size / MIB:.1f}" for calls, size in resident.items())
