"""Time limits on a loop that is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from services.transformer.redis.deadlines import Deadlines
from services.transformer.redis.errors import Late

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


def test_each_is_told_at_its_time(run: Callable[..., None]) -> None:
    """Who has less time is told first, whoever came first; who left is not."""

    async def waiting() -> None:
        deadlines, loop = Deadlines(), asyncio.get_running_loop()
        order: list[int] = []
        waiters = [loop.create_future() for _ in range(4)]
        for number, (waiter, seconds) in enumerate(zip(waiters, (0.6, 0.2, 0.4, 0.1), strict=True)):
            moment = deadlines.add(waiter, seconds)
            waiter.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
        waiters[3].set_result(None)
        moment.discard(waiters[3])

        done = await asyncio.gather(*waiters, return_exceptions=True)

        assert order == [3, 1, 2, 0]
        assert [type(each) for each in done] == [Late, Late, Late, type(None)]

    run(waiting())


def test_an_answer_that_came_during_a_stall_is_taken(run: Callable[..., None]) -> None:
    """What arrived in time is taken, though the loop came back to it after the time."""

    async def waiting() -> None:
        deadlines, loop = Deadlines(), asyncio.get_running_loop()
        waiter = loop.create_future()
        deadlines.add(waiter, 0.02)
        loop.call_soon(lambda: (busy(0.06), loop.call_soon(waiter.set_result, None)))
        await waiter

    run(waiting())


def test_a_loop_that_stays_busy_is_told(run: Callable[..., None]) -> None:
    """When the loop never comes to itself, who waits is told so."""

    async def waiting() -> None:
        deadlines, loop, going = Deadlines(), asyncio.get_running_loop(), True

        def again() -> None:
            busy(0.015)
            if going:
                loop.call_soon(again)

        loop.call_soon(again)
        waiter = loop.create_future()
        deadlines.add(waiter, 0.01)
        with pytest.raises(Late) as late:
            await waiter
        going = False
        assert late.value.stalled

    run(waiting())


def test_nobody_is_told_after_the_end(run: Callable[..., None]) -> None:
    """A client that was closed leaves no timer."""

    async def waiting() -> None:
        deadlines, waiter = Deadlines(), asyncio.get_running_loop().create_future()
        deadlines.add(waiter, 0.005)
        deadlines.close()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiter), 0.05)

    run(waiting())
