"""Threads for arithmetic."""

from __future__ import annotations

import asyncio
import threading

import pytest

from infermesh.deadline import NO_DEADLINE, Deadline
from infermesh.errors import DeadlineExceeded
from services.explainer.threads import INLINE_ELEMENTS, Between, Threads


async def test_small_pieces_go_on_beside_long_work() -> None:
    """As many long ones as there are threads hold up no piece of anybody else."""
    threads, go_on = Threads(2), threading.Event()
    long = [asyncio.ensure_future(threads.run_long(lambda _: go_on.wait(30), NO_DEADLINE, "")) for _ in range(3)]

    async with asyncio.timeout(20):
        assert await threads.run(INLINE_ELEMENTS + 1, lambda: 7) == 7
    assert not any(each.done() for each in long)

    go_on.set()
    assert await asyncio.gather(*long) == [True] * 3
    threads.close()


async def test_long_work_ends_between_its_parts_when_the_caller_has_gone() -> None:
    threads, begun, ended = Threads(1), threading.Event(), threading.Event()

    def work(between: Between) -> None:
        try:
            while True:
                begun.set()
                between()
        finally:
            ended.set()

    caller = asyncio.ensure_future(threads.run_long(work, NO_DEADLINE, ""))
    assert await asyncio.to_thread(begun.wait, 20)
    caller.cancel()

    assert await asyncio.to_thread(ended.wait, 20)
    threads.close()


async def test_long_work_ends_between_its_parts_when_the_deadline_passes() -> None:
    threads = Threads(1)

    with pytest.raises(DeadlineExceeded, match="too late for that"):
        await threads.run_long(lambda between: between(), Deadline.after(-1), "too late for that")
    threads.close()
