"""Several things at a time: all results, or the first failure and an end of the others."""

from __future__ import annotations

import asyncio

import pytest

from services.explainer.together import together


async def test_results_come_in_the_order_of_the_parts() -> None:
    """Whichever is done first."""

    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    assert await together(after(turns) for turns in (5, 0, 3)) == [5, 0, 3]
    assert await together([]) == []


async def test_the_first_failure_is_raised_when_the_others_have_ended() -> None:
    """They are cancelled, and have cleaned up."""
    ended = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("waits")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        await together([waits(), fails(), waits()])
    assert ended == ["waits", "waits"]


async def test_cancelling_ends_all_parts() -> None:
    """And none goes on by itself."""
    cancelled = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    task = asyncio.create_task(together([waits(), waits()]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == [1, 1]
