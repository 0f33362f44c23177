"""Several processes on one port: one service to whoever calls, probes or scrapes it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from .conftest import call, channel, folder_of


async def test_connections_are_spread_over_the_processes(supervised: Callable[..., Any]) -> None:
    """Each has an Envoy and a loop of its own; a scrape sees the calls of all."""
    async with supervised(processes=2) as it, AsyncExitStack() as channels:
        await it.until_ready()
        answered = set()
        calls = 0

        while len(answered) < 2:
            assert calls < 100  # the kernel's choice: a half of them to each
            opened = await channels.enter_async_context(channel(it.target))
            answered.add(int(await call(opened, "Pid")))
            calls += 1

        assert answered == it.pids()
        text = (await it.http("/metrics"))[1]
        assert f"calls_total {calls}.0" in text
        assert 'infermesh_engine_processes{service="engine",state="ready"} 2.0' in text


async def test_a_process_that_is_not_ready_does_not_listen(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """While one is started again the other has all connections, and the service stays ready."""
    hold = tmp_path / "hold"
    async with supervised(processes=2, program={"hold": str(hold)}) as it:
        await it.until_ready()

        async def both() -> bool:
            return 'state="ready"} 2.0' in (await it.http("/metrics"))[1]

        await it.until(both)
        hold.touch()
        first, second = sorted(it.pids())

        os.kill(first, signal.SIGKILL)
        await it.says("another one is started")
        assert await answering(it, second, "process-3") == {second}
        assert (await it.http("/ready"))[0] == 200

        hold.unlink()
        await it.until(both)


async def test_a_service_is_ready_with_its_first_process(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """Those that are still starting get no connection."""
    hold = tmp_path / "hold"
    hold.touch()
    async with supervised(processes=2, program={"hold": str(hold), "hold_only": "process-2"}) as it:
        await it.until_ready()
        async with channel(it.target) as opened:
            first = int(await call(opened, "Pid"))

        assert await answering(it, first, "process-2") == {first}


async def answering(it: Any, known: int, other: str) -> set[int]:
    """Who answers many new connections, once the other process runs its program."""
    folder = folder_of(known)
    await it.until(lambda: asyncio.to_thread((folder / f"{other}.control").exists))
    found = set()
    for _ in range(100):
        async with channel(it.target) as opened:
            found.add(int(await call(opened, "Pid", wait=False)))
    return found


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.long), 2])
async def test_a_rolling_restart_loses_no_call(supervised: Callable[..., Any], processes: int) -> None:
    """Every process is another one afterwards; callers under way, and those who come anew, have noticed nothing."""
    async with supervised(processes=processes, grace_s=20) as it, AsyncExitStack() as channels:
        await it.until_ready()

        async def whole() -> bool:
            return f'state="ready"}} {processes}.0' in (await it.http("/metrics"))[1]

        await it.until(whole)
        before = it.pids()
        stopped = asyncio.Event()
        steady = [await channels.enter_async_context(channel(it.target)) for _ in range(4)]
        callers = [asyncio.ensure_future(keep_calling(each, stopped)) for each in steady]
        callers.append(asyncio.ensure_future(keep_connecting(it.target, stopped)))

        it.signal(signal.SIGHUP)
        await it.says("process replaced", processes)
        stopped.set()
        answered = sum(await asyncio.gather(*callers))

        assert len(it.pids()) == processes and not it.pids() & before
        counted = re.search(r"^calls_total (\d+)", (await it.http("/metrics"))[1], re.MULTILINE)
        assert counted and int(counted[1]) == answered > 0  # those of the processes that are gone are counted too
        assert len([each for each in it.log if each.get("message") == "process replaced"]) == processes


async def keep_calling(opened: Any, stopped: asyncio.Event) -> int:
    """Calls one after the other on one channel; none may fail, nor be retried by waiting for a connection."""
    calls = 0
    await call(opened, "Pid")
    while not stopped.is_set():
        await call(opened, "Pid", wait=False)
        calls += 1
    return calls + 1


async def keep_connecting(target: str, stopped: asyncio.Event) -> int:
    """Each call on a connection of its own."""
    calls = 0
    while not stopped.is_set():
        async with channel(target) as opened:
            await call(opened, "Pid")
        calls += 1
    return calls


async def test_a_restart_to_a_program_that_fails_changes_nothing(
    supervised: Callable[..., Any], tmp_path: Path
) -> None:
    """The process in place stays, and the reason is in the log."""
    hold = tmp_path / "hold"
    async with supervised(program={"hold": str(hold)}, start_within_s=3.0) as it, channel(it.target) as opened:
        await it.until_ready()
        before = int(await call(opened, "Pid"))
        hold.touch()  # the successor is never ready

        it.signal(signal.SIGHUP)
        await it.until(lambda: asyncio.to_thread(lambda: len(it.pids()) == 2))
        (new,) = it.pids() - {before}
        os.kill(new, signal.SIGKILL)

        await it.says("the process in place stays")
        assert int(await call(opened, "Pid")) == before
        with pytest.raises(grpc.RpcError):
            await call(opened, "Nothing", path="/nothing")


async def test_what_a_killed_process_had_told_is_not_forgotten(supervised: Callable[..., Any]) -> None:
    """A counter that falls would be read as a burst of calls that nobody made."""
    async with supervised(pace={"first_pause_s": 0.5}) as it:
        await it.until_ready()
        async with channel(it.target) as opened:
            for _ in range(3):
                await call(opened, "Pid")
        assert "calls_total 3.0" in (await it.http("/metrics"))[1]

        os.kill(*it.pids(), signal.SIGKILL)
        await it.says("another one is started")
        assert "calls_total 3.0" in (await it.http("/metrics"))[1]  # and not twice, until there is another one
        await it.until_ready()

        async with channel(it.target) as opened:
            await call(opened, "Pid")
        assert "calls_total 4.0" in (await it.http("/metrics"))[1]
