"""A time limit on a loop that is busy."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
import uvloop

from services.transformer.patience import Patience

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def busy(seconds: float) -> None:
    """Hold up the loop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Runs a coroutine on a loop of its own."""

    def on_a_loop(coroutine: object) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(coroutine)  # type: ignore[arg-type]

    return on_a_loop


def test_it_ends(run: Callable[..., None]) -> None:
    """Who waits for nothing is let go after the time."""

    async def waiting() -> None:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with Patience(0.02):
                await asyncio.Event().wait()
        assert 0.015 < time.monotonic() - started < 2

    run(waiting())


def test_an_answer_that_came_during_a_stall_is_taken(run: Callable[..., None]) -> None:
    """Bytes that arrived in time are read, though the loop came back to them after the time."""

    async def waiting() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        asyncio.get_running_loop().call_soon(lambda: (theirs.send(b"!"), busy(0.06)))
        async with Patience(0.02):
            assert await reader.readexactly(1) == b"!"
        writer.close()
        theirs.close()

    run(waiting())


def test_a_loop_that_stays_busy_is_told(run: Callable[..., None]) -> None:
    """When the loop never comes to itself, the timeout says so."""

    async def waiting() -> None:
        loop, patience, going = asyncio.get_running_loop(), Patience(0.01), True

        def again() -> None:
            busy(0.015)
            if going:
                loop.call_soon(again)

        loop.call_soon(again)
        with pytest.raises(TimeoutError):
            async with patience:
                await asyncio.Event().wait()
        going = False
        assert patience.stalled

    run(waiting())


def test_a_cancelled_caller_is_no_timeout(run: Callable[..., None]) -> None:
    """Cancelling passes through."""

    async def waiting() -> None:
        async def waits() -> None:
            async with Patience(5):
                await asyncio.Event().wait()

        task = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    run(waiting())
