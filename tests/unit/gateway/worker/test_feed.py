"""The gateway's end of a worker, with a real process at the other end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infermesh.errors import DeadlineExceeded, Internal, Unavailable
from services.gateway.worker import Feed

ROOT = Path(__file__).parents[4]
WRITE, DIE, HANG, FAIL = 1, 2, 3, 4


@asynccontextmanager
async def feeding(file: Path, *, when_used: bool = False, **options):
    """A feed with an echo worker that writes to a file, and what was counted."""
    counts: Counter[str] = Counter()
    feed = Feed(
        "echo",
        "tests.unit.gateway.worker.echo_worker",
        [str(file)],
        observe=lambda outcome, count: counts.update({outcome: count}),
        environment={"PYTHONPATH": str(ROOT)},
        **{"pause_s": 0.01, **options},
    )
    if when_used:
        feed.start_when_used()
    else:
        await feed.start()
    try:
        yield feed, counts
    finally:
        await feed.close()


async def until(condition) -> None:
    """Return when it holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_frames_arrive_in_order_and_whole(tmp_path):
    """Frames of no, one and several parts, one of them of 3 MB; all are taken before the process ends."""
    big = b"x" * 3_000_000

    async with feeding(tmp_path / "out") as (feed, counts):
        for number in range(200):
            assert feed.offer(WRITE, str(number).encode())
        feed.offer(WRITE)
        feed.offer(WRITE, b"a", b"", b"c")
        feed.offer(WRITE, big)

    lines = (tmp_path / "out").read_bytes().splitlines()
    assert lines == [str(number).encode() for number in range(200)] + [b"", b"a||c", big, b"closed"]
    assert counts == {"sent": 203}


async def test_it_answers_after_what_was_offered(tmp_path):
    """What is asked is answered in its turn, several at once; a fault of the worker's is INTERNAL and harms nothing else."""
    async with feeding(tmp_path / "out") as (feed, _):
        feed.offer(WRITE, b"before")
        assert await asyncio.gather(feed.ask(b"abc"), feed.ask(b"12")) == [b"cba", b"21"]
        assert (tmp_path / "out").read_bytes() == b"before\n"

        with pytest.raises(Internal, match="echo: could not answer"):
            await feed.ask(b"fail")

        assert await feed.ask(b"again") == b"niaga"


async def test_a_frame_that_fails_is_one_frame(tmp_path):
    """What `take` raises is logged by the process, and the next frame is taken."""
    async with feeding(tmp_path / "out") as (feed, _):
        feed.offer(FAIL)
        feed.offer(WRITE, b"next")
        await feed.ask(b"")
        await until(lambda: feed.counters == {"taken": 2.0})

    assert (tmp_path / "out").read_bytes().splitlines() == [b"next", b"closed"]


async def test_a_killed_worker_is_started_again(tmp_path):
    """What it had been sent is counted as lost, whoever waits hears of it, and the next one takes what comes then."""
    async with feeding(tmp_path / "out") as (feed, counts):
        pid = feed.pid
        await feed.ask(b"")
        feed.offer(DIE)
        feed.offer(WRITE, b"lost")
        with pytest.raises(Unavailable, match="echo is not running"):
            await feed.ask(b"")

        await until(lambda: feed.restarts == 1)
        assert feed.pid != pid
        assert await feed.ask(b"ab") == b"ba"
        feed.offer(WRITE, b"after")

    assert counts["lost"] == 2
    assert (tmp_path / "out").read_bytes().splitlines() == [b"after", b"closed"]


async def test_a_worker_that_hangs_is_killed(tmp_path):
    """Nobody waits for it longer than they said, what is offered is bounded, and a new one takes its place."""
    async with feeding(tmp_path / "out", hang_s=1.0, max_bytes=100_000) as (feed, counts):
        await feed.ask(b"")
        feed.offer(HANG)
        with pytest.raises(DeadlineExceeded, match="echo: no answer within"):
            await feed.ask(b"", timeout_s=0.01)
        while feed.offer(WRITE, b"x" * 10_000):
            pass
        assert feed.waiting_bytes < 120_000
        assert counts["dropped"] == 1

        await until(lambda: feed.restarts == 1)
        assert await feed.ask(b"ab", timeout_s=20) == b"ba"

    assert counts["lost"] > 1


async def test_without_a_process_frames_are_dropped(tmp_path):
    """While the next one is awaited, and after the end, what is offered is dropped and counted."""
    async with feeding(tmp_path / "out", pause_s=3600.0) as (feed, counts):
        await feed.ask(b"")
        os.kill(feed.pid, signal.SIGKILL)
        await until(lambda: feed.pid is None)

        assert not feed.offer(WRITE, b"")

    assert not feed.offer(WRITE, b"")
    assert counts == {"dropped": 2}


async def test_it_ends_when_the_gateway_is_gone(tmp_path):
    """Without a goodbye, as when the gateway was killed: the process closes what it has, and does not stay behind."""
    async with feeding(tmp_path / "out", pause_s=3600.0) as (feed, _):
        await feed.ask(b"")
        pid = feed.pid
        feed._link.close()

        await until(lambda: feed.pid is None)

    assert (tmp_path / "out").read_bytes() == b"closed\n"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals(tmp_path, number):
    """SIGTERM ends it when it has taken what was sent; SIGINT, which a Ctrl-C sends to all, is the gateway's to act on."""
    async with feeding(tmp_path / "out", pause_s=3600.0) as (feed, _):
        await feed.ask(b"")
        feed.offer(WRITE, b"sent")
        os.kill(feed.pid, number)
        if number is signal.SIGTERM:
            await until(lambda: feed.pid is None)
        else:
            assert await feed.ask(b"ab") == b"ba"

    assert (tmp_path / "out").read_bytes().splitlines() == [b"sent", b"closed"]


async def test_a_process_that_starts_when_it_is_used(tmp_path):
    """With the first frame; what comes until it is there waits, in order, after its greeting, and is taken at a close too."""
    greeting = {"greeting": lambda: [(WRITE, b"greeting")]}

    async with feeding(tmp_path / "out", when_used=True, **greeting) as (feed, counts):
        assert (feed.is_used, feed.pid) == (False, None)
        assert all(feed.offer(WRITE, str(number).encode()) for number in range(3))
        assert (feed.is_used, feed.pid, feed.waiting_bytes) == (True, None, 3)

    assert (tmp_path / "out").read_bytes().splitlines() == [b"greeting", b"0", b"1", b"2", b"closed"]
    assert counts == {"sent": 3}
    assert not feed.offer(WRITE, b"late")


async def test_a_question_starts_it_too(tmp_path):
    """It is answered after what was offered before it; an end like any other is followed by a new start."""
    async with feeding(tmp_path / "out", when_used=True) as (feed, _):
        asked = asyncio.ensure_future(feed.ask(b"ab", timeout_s=20))
        feed.offer(WRITE, b"after")
        assert await asked == b"ba"
        feed.offer(DIE)

        await until(lambda: feed.restarts == 1)
        assert await feed.ask(b"cd", timeout_s=20) == b"dc"

    assert (tmp_path / "out").read_bytes().splitlines() == [b"after", b"closed"]


async def test_a_first_process_that_is_gone_at_once(tmp_path):
    """What had waited for it is lost; its greeting is nobody's, and the next one gets it too."""
    greeting = {"greeting": lambda: [(WRITE, b"greeting")]}
    async with feeding(tmp_path / "out", when_used=True, **greeting) as (feed, counts):
        command, feed._command = feed._command, (sys.executable, "-c", "")
        assert all(feed.offer(WRITE, b"early") for _ in range(3))
        await until(lambda: feed.pid is not None)
        feed._command = command
        await until(lambda: feed.restarts == 1)
        assert await feed.ask(b"ab", timeout_s=20) == b"ba"

    assert counts == {"sent": 3, "lost": 3}
    assert (tmp_path / "out").read_bytes().splitlines() == [b"greeting", b"closed"]


async def test_one_that_is_not_used_is_not_started(tmp_path):
    """A close ends nothing, and nothing is started after it."""
    async with feeding(tmp_path / "out", when_used=True) as (feed, counts):
        pass

    assert not feed.offer(WRITE, b"late")
    with pytest.raises(Unavailable, match="echo is not running"):
        await feed.ask(b"")
    assert not feed.is_used
    assert not (tmp_path / "out").exists()
    assert counts == {"dropped": 1}


async def test_what_waits_for_the_first_process_is_bounded(tmp_path):
    """Past the bound frames are dropped, and counted."""
    async with feeding(tmp_path / "out", when_used=True, max_bytes=25) as (feed, counts):
        assert [feed.offer(WRITE, b"x" * 10) for _ in range(5)] == [True, True, True, False, False]

    assert counts == {"sent": 3, "dropped": 2}
    assert (tmp_path / "out").read_bytes().splitlines() == [b"x" * 10] * 3 + [b"closed"]


async def test_a_first_process_that_can_t_be_started(tmp_path):
    """Who asks hears of it; frames wait for the next attempt, and are lost when the end comes before it."""
    async with feeding(tmp_path / "out", when_used=True) as (feed, _):
        command, feed._command = feed._command, ("/nothing",)
        feed.offer(WRITE, b"first")
        with pytest.raises(Unavailable, match="echo is not running"):
            await feed.ask(b"")
        feed._command = command
        assert feed.offer(WRITE, b"second")
        assert await feed.ask(b"ab", timeout_s=20) == b"ba"
    assert (tmp_path / "out").read_bytes().splitlines() == [b"first", b"second", b"closed"]

    async with feeding(tmp_path / "out", when_used=True, pause_s=3600.0) as (feed, counts):
        feed._command = ("/nothing",)
        feed.offer(WRITE, b"never")
    assert counts == {"sent": 1, "lost": 1}
