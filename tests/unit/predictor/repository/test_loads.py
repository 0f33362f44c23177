"""Blocking work in threads that are given up on."""

from __future__ import annotations

import asyncio
import threading

import pytest

from services.predictor.load_failed import LoadFailed
from services.predictor.repository import loads as module
from services.predictor.repository.loads import Loads, StillLoading
from tests.unit.predictor.repository.repository_state import until


async def test_the_result_or_the_error_of_the_work_is_the_answer() -> None:
    """What the work returns is returned, what it raises is raised."""
    loads = Loads(1, 60)

    def fail() -> None:
        raise LoadFailed("no file")

    assert await loads.run(lambda: 7) == 7
    with pytest.raises(LoadFailed, match="no file"):
        await loads.run(fail)
    assert await loads.run(lambda: 8) == 8


async def test_so_many_run_at_a_time() -> None:
    """What comes beyond the bound waits for its turn, and gets it."""
    loads, running, most = Loads(2, 60), 0, 0
    lock, go_on = threading.Lock(), threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go_on.wait(10)
        with lock:
            running -= 1

    tasks = [asyncio.ensure_future(loads.run(work)) for _ in range(6)]
    await until(lambda: running == 2)
    go_on.set()
    await asyncio.gather(*tasks)

    assert most == 2


async def test_work_that_hangs_holds_up_no_other() -> None:
    """Past the timeout its caller is told, the next gets its turn, and what comes of it at last is told too."""
    loads, go_on, late = Loads(1, 0.02), threading.Event(), []

    with pytest.raises(StillLoading, match="still loading after 20ms"):
        await loads.run(lambda: go_on.wait(10) and "done", too_late=late.append)
    assert loads.given_up == 1
    assert await loads.run(lambda: 7) == 7

    go_on.set()
    await until(lambda: late)
    assert late == ["done"]
    assert loads.given_up == 0


async def test_an_error_that_comes_too_late_is_told() -> None:
    """Work that was given up on and then fails tells why."""
    loads, go_on, late = Loads(1, 0.02), threading.Event(), []

    def fail() -> None:
        go_on.wait(10)
        raise LoadFailed("out of memory")

    with pytest.raises(StillLoading):
        await loads.run(fail, too_late=late.append)
    go_on.set()
    await until(lambda: late)

    assert str(late[0]) == "out of memory"


async def test_what_nobody_waits_for_is_handed_over() -> None:
    """A result that comes after its caller was cancelled is not lost: it may hold a session. Its turn ends with its thread."""
    loads, go_on, late = Loads(1, 60), threading.Event(), []
    task = asyncio.ensure_future(loads.run(lambda: go_on.wait(10) and "session", too_late=late.append))
    await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    other = asyncio.ensure_future(loads.run(lambda: 7))
    await asyncio.sleep(0.001)
    assert not other.done()

    go_on.set()
    assert await other == 7
    assert late == ["session"]


async def test_a_result_in_the_turn_of_the_cancellation_is_handed_over() -> None:
    """Also a result that has arrived, and whose caller is cancelled before it could take it."""
    loads, late, go_on, threads = Loads(1, 60), [], threading.Event(), []

    def work() -> str:
        threads.append(threading.current_thread())
        go_on.wait(10)
        return "session"

    task = asyncio.ensure_future(loads.run(work, too_late=late.append))
    await until(lambda: threads)
    go_on.set()
    threads[0].join()  # no await since it went on: the result stands in the loop's queue

    asyncio.get_running_loop().call_soon(task.cancel)  # between the result and the task that waits for it
    with pytest.raises(asyncio.CancelledError):
        await task

    assert late == ["session"]


async def test_past_a_number_of_hanging_threads_nothing_more_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread can't be ended, so their number is bounded, and the reason says what helps."""
    monkeypatch.setattr(module, "MAX_GIVEN_UP", 2)
    loads, go_on = Loads(1, 0.01), threading.Event()
    for _ in range(2):
        with pytest.raises(StillLoading):
            await loads.run(lambda: go_on.wait(10))

    with pytest.raises(LoadFailed, match="2 loads hang in this process, which is the bound"):
        await loads.run(lambda: 7)

    go_on.set()
    await until(lambda: loads.given_up == 0)
    assert await loads.run(lambda: 7) == 7


async def test_a_thread_that_can_not_be_started_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the system's bound of threads a load fails with the reason, and the next one finds its place and no ghost in it."""
    loads = Loads(1, 0.01)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            with pytest.raises(LoadFailed, match="no thread could be started: can't start new thread"):
                await loads.run(lambda: 7)
    await asyncio.sleep(0.02)  # past the timeout: nothing is to count as given up

    assert loads.given_up == 0
    assert await loads.run(lambda: 7) == 7
