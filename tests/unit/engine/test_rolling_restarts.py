"""SIGHUP when something is in its way, and what a scrape sees meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .conftest import call, channel, folder_of


async def test_no_counter_falls_while_the_old_process_finishes(supervised: Callable[..., Any], tmp_path: Path) -> None:
    """It answers what it has for as long as the grace is, and what it counted and holds is the service's all the time."""
    async with supervised(grace_s=20) as it, channel(it.target) as opened:
        await it.until_ready()
        (old,) = it.pids()
        for _ in range(3):
            await call(opened, "Pid")
        waiting = asyncio.ensure_future(call(opened, "Wait", bytes(tmp_path / "go")))

        async def four() -> bool:
            return "calls_total 4.0" in (await it.http("/metrics"))[1]

        async def another_answers() -> bool:
            async with channel(it.target) as new:
                return int(await call(new, "Watched", path="/test.Engine/Pid")) != old

        await it.until(four)

        it.signal(signal.SIGHUP)
        seen = []
        while not await another_answers():
            seen.append(_counted((await it.http("/metrics"))[1]))
        text = (await it.http("/metrics"))[1]

        assert seen == sorted(seen) and _counted(text) >= max(seen, default=4.0)
        assert "infermesh_model_in_flight 1.0" in text
        assert not waiting.done()
        (tmp_path / "go").touch()
        await it.says("process replaced")
        assert _counted((await it.http("/metrics"))[1]) >= _counted(text)
        await waiting


async def test_a_second_one_gives_up_a_successor_that_is_never_ready(
    supervised: Callable[..., Any], tmp_path: Path
) -> None:
    """Whoever has mended what was wrong need not find its process and kill it."""
    hold = tmp_path / "hold"
    async with supervised(program={"hold": str(hold)}) as it:
        await it.until_ready()
        (before,) = it.pids()
        hold.touch()
        it.signal(signal.SIGHUP)
        await it.until(lambda: asyncio.to_thread(lambda: len(it.pids()) == 2))
        (held,) = it.pids() - {before}

        it.signal(signal.SIGHUP)
        await it.says("was not ready when the next restart was asked for")
        hold.unlink()
        await it.says("process replaced")

        assert len(it.pids()) == 1 and not it.pids() & {before, held}


async def test_a_process_that_can_not_be_started_changes_nothing(supervised: Callable[..., Any]) -> None:
    """No room for its files, no process to be had: the one in place stays, and the next attempt may go well."""
    async with supervised() as it:
        await it.until_ready()
        (before,) = it.pids()
        in_the_way = folder_of(before) / "process-2.leaving"
        in_the_way.mkdir()

        it.signal(signal.SIGHUP)
        await it.says("its successor could not be started")
        assert it.pids() == {before}

        it.signal(signal.SIGHUP)
        await it.says("process replaced")
        assert len(it.pids()) == 1 and before not in it.pids()


async def test_a_process_that_can_not_be_started_is_tried_again(supervised: Callable[..., Any]) -> None:
    """And the others answer meanwhile."""
    async with supervised(processes=2) as it:
        await it.until_ready()

        async def both() -> bool:
            return 'state="ready"} 2.0' in (await it.http("/metrics"))[1]

        await it.until(both)
        first, second = sorted(it.pids())
        (folder_of(first) / "process-3.leaving").mkdir()

        os.kill(first, signal.SIGKILL)
        await it.says("a process could not be started")
        assert second in it.pids()

        await it.until(both)
        assert second in it.pids()


def _counted(text: str) -> float:
    return float(text.partition("\ncalls_total ")[2].partition("\n")[0])
