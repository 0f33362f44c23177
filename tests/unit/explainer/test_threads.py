"""Threads for arithmetic."""

from __future__ import annotations

import asyncio
import threading

from services.explainer.threads import INLINE_ELEMENTS, Threads


async def test_small_pieces_go_on_beside_long_work() -> None:
    """As many long ones as there are threads hold up no piece of anybody else."""
    threads, go_on = Threads(2), threading.Event()
    long = [asyncio.ensure_future(threads.run_long(lambda: go_on.wait(30))) for _ in range(3)]

    async with asyncio.timeout(20):
        assert await threads.run(INLINE_ELEMENTS + 1, lambda: 7) == 7
    assert not any(each.done() for each in long)

    go_on.set()
    assert await asyncio.gather(*long) == [True] * 3
    threads.close()
