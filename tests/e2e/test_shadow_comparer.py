"""The comparing process of a real gateway is killed, stopped and overrun; gateways end and begin again; ids are ever new."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from e2e_gateway import Backend, resident_bytes
from e2e_shadows import comparer_pid, fraud, has_ended, loading, mirroring, route, saying, until

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.transport.probe import is_serving
from services.gateway.compare.comparison import Comparison
from services.gateway.compare.pair import Answered, Pair
from services.gateway.compare_config import CompareConfig
from tests.unit.gateway.compare.pairs import fraud as message

SMALL_QUEUE = {"max_queue": "64KiB"}
GATEWAY_GROWTH_BYTES = 8 << 20
KEPT_BLOCKS = 2_000  # of memory, by a comparison between 2,000 and 20,000 pairs; ids that are kept are 18,000 at least


async def test_a_comparer_that_is_killed_under_load_costs_pairs_and_no_call(tmp_path: Path) -> None:
    """It is stopped so that it has pairs, killed, and comes back; what it had is counted as lost, and all calls are answered."""
    async with mirroring(tmp_path, [route()], Backend(saying(fraud(0.8)))) as (gateway, caller):
        assert not (await caller.response()).reports
        assert comparer_pid(gateway) is None  # there is nothing to compare yet
        await caller.call(20)
        await caller.report(20)
        first = comparer_pid(gateway)
        assert first is not None
        async with loading(gateway) as load:
            os.kill(first, signal.SIGSTOP)
            await asyncio.to_thread(load.wait_for, 100)
            os.kill(first, signal.SIGKILL)
            await until(lambda: gateway.sample("infermesh_gateway_compare_restarts") == 1)
            second = comparer_pid(gateway)
            before = gateway.sample("infermesh_gateway_pairs_total", outcome="compared")
            await asyncio.to_thread(load.wait_for, 100)
        await until(lambda: gateway.sample("infermesh_gateway_shadow_total") == load.ended.total() + 20)

        assert set(load.ended) == {"OK"}, load.failures[:3]
        assert second not in (None, first)
        lost = gateway.sample("infermesh_gateway_pairs_lost_total")
        dropped = gateway.sample("infermesh_gateway_pairs_total", outcome="dropped")
        compared = gateway.sample("infermesh_gateway_pairs_total", outcome="compared")
        assert lost > 0
        assert compared > before
        assert compared + dropped == load.ended.total() + 20
        told = await caller.response()
        assert told.not_compared["lost"] == lost
        report = await caller.report(1)
        assert report.pairs <= compared - 20
        assert report.pairs >= compared - lost - 20


async def test_a_comparer_that_stands_still_under_load_drops_pairs_and_goes_on(tmp_path: Path) -> None:
    """What waits for it stays under its bound, more is dropped and counted, calls are answered; awake, it takes what waited."""
    async with mirroring(tmp_path, [route()], Backend(saying(fraud(0.8))), compare=SMALL_QUEUE) as (gateway, caller):
        await caller.call(20)
        await caller.report(20)
        pid = comparer_pid(gateway)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            async with loading(gateway) as load:
                while not gateway.sample("infermesh_gateway_pairs_total", outcome="dropped"):
                    await asyncio.to_thread(load.wait_for, 100)
            await until(lambda: gateway.sample("infermesh_gateway_shadow_total") == load.ended.total() + 20)
            waiting = gateway.sample("infermesh_gateway_compare_waiting_bytes")
        finally:
            os.kill(pid, signal.SIGCONT)

        compared = int(gateway.sample("infermesh_gateway_pairs_total", outcome="compared"))
        dropped = gateway.sample("infermesh_gateway_pairs_total", outcome="dropped")
        report = await caller.report(compared)
        assert set(load.ended) == {"OK"}, load.failures[:3]
        assert compared + dropped == load.ended.total() + 20
        assert waiting < 2 * 65_536
        assert report.pairs == compared
        assert comparer_pid(gateway) == pid


async def test_sigterm_under_load_loses_nothing_and_the_next_gateway_knows_it(tmp_path: Path) -> None:
    """Calls that it has when it is told to end are answered, their pairs compared and kept; the next one counts on from there."""
    held, go = asyncio.Event(), asyncio.Event()
    answer = saying(fraud(0.2))

    async def waits(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if len(primary.calls) == 40:
            held.set()
        await go.wait()
        return await answer(request, call)

    primary = Backend(waits)
    state, shadow = tmp_path / "state.json", Backend(saying(fraud(0.8)))
    async with mirroring(tmp_path, [route()], shadow, primary, compare={"state": str(state)}) as (gateway, caller):
        calls = [asyncio.ensure_future(caller.ask("m", f"r{number}")) for number in range(40)]
        await held.wait()
        await until(lambda: gateway.sample("infermesh_gateway_shadow_total", outcome="mirrored") == 40)
        os.kill(gateway.pid, signal.SIGTERM)
        await until(lambda: not is_serving(gateway.address, "", 1.0))
        go.set()
        await asyncio.gather(*calls)
        await until(lambda: has_ended(gateway.pid))
        assert caller.ended == {"OK": 40}
    (kept,) = json.loads(state.read_text())["comparisons"]
    assert kept["state"]["tallies"]["shadow"]["pairs"] == 40

    async with mirroring(tmp_path, [route()], shadow, compare={"state": str(state)}) as (_, caller):
        assert (await caller.report(40)).pairs == 40
        await caller.call(10)
        report = await caller.report(50)

    assert report.pairs == 50
    assert {each.request_id for each in report.worst} < {
        f"r{number}" for number in range(40)
    }  # of equal ones the first stay


def test_twenty_thousand_ids_leave_a_comparison_as_it_was() -> None:
    """Pairs with an id of their own each, and labels that differ: what it keeps after 2,000 is what it keeps after 20,000."""
    comparison = Comparison("m", "candidate", CompareConfig())
    answers = [message(at / 97) for at in range(97)]

    def add(first: int, last: int) -> None:
        for at in range(first, last):
            mine, other = Answered(answers[at % 97], 0.001), Answered(answers[at * 7 % 97], 0.002)
            comparison.add(Pair("shadow", f"request-{at:028}", float(at), mine, other))

    add(0, 2_000)
    before = sys.getallocatedblocks()
    add(2_000, 20_000)
    after = sys.getallocatedblocks()

    assert comparison.report().pairs == 20_000
    assert after - before < KEPT_BLOCKS


async def _flat(folder: Path, count: int) -> None:
    primary, shadow = Backend(saying(fraud(0.2))), Backend(saying(fraud(0.8)))
    async with mirroring(folder, [route()], shadow, primary) as (gateway, caller):
        await caller.call(1_000, ids=(f"before-{at:028}" for at in range(1_000)))
        await caller.report(1_000)
        pids = (gateway.pid, comparer_pid(gateway) or 0)
        before = [resident_bytes(pid) for pid in pids]

        ids = (f"request-{at:028}" for at in range(count))
        for _ in range(count // 1_000):
            await caller.call(1_000, ids=ids)
            shadow.calls.clear()  # the fakes keep theirs
            primary.calls.clear()
        report = await caller.report(count + 1_000)

        grown = [resident_bytes(pid) - had for pid, had in zip(pids, before, strict=True)]
        print(f"gateway {grown[0] / 2**20:+.1f} MiB, comparing process {grown[1] / 2**20:+.1f} MiB after {count} ids")
        assert caller.ended == {"OK": count + 1_000}
        assert len(report.worst) == 32
        assert {each.request_id[:7] for each in report.worst} == {"before-"}  # of equal ones the first stay
        assert max(grown) < GATEWAY_GROWTH_BYTES, grown


@pytest.mark.long
async def test_two_thousand_ids_leave_gateway_and_comparer_as_they_were(tmp_path: Path) -> None:
    """Every call with an id of its own, mirrored and compared."""
    await _flat(tmp_path, 2_000)


@pytest.mark.long
async def test_a_hundred_thousand_ids_leave_gateway_and_comparer_as_they_were(tmp_path: Path) -> None:
    """The same with fifty times as many."""
    await _flat(tmp_path, 100_000)
