"""How late the event loop is."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.gateway.overload import LoopLag


@pytest.fixture
async def lag():
    made = LoopLag(0.2)
    yield made
    made.close()


def hold(seconds: float) -> None:
    """Keep the loop from going on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def test_a_loop_that_is_held_is_overloaded_and_recovers(lag):
    """While it is held and just after, and not for long."""
    assert not lag.is_over()

    hold(0.3)
    assert lag.is_over()
    async with asyncio.timeout(20):
        while lag.is_over():
            await asyncio.sleep(0.01)


async def test_a_loop_that_has_been_late_says_so_for_a_while(lag):
    """The moment after, in which nothing is due, is no sign of health."""
    hold(0.35)
    await asyncio.sleep(0)  # what was due runs

    assert lag.is_over()
