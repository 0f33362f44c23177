"""Tests of the connection to the store of shared limits: what happens when it is slow or away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from infermesh.cli.valkey import Valkey
from services.gateway.redis_lane import MAX_BATCH, Lane
from tests.unit.gateway.limits import Replica, call_of, replica, until

LOCAL = {"rate": 0.01, "burst": 4, "local_share": 0.5}  # a replica alone lets in two


@pytest.fixture
def own() -> Iterator[Valkey]:
    """A Valkey that a test may harm."""
    with Valkey(options=["--enable-debug-command", "local"]) as server:
        yield server


class Wire:
    """A connection that answers when it is told to, and keeps how often it was written to."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.replies: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = False

    def pack_commands(self, commands: list[Any]) -> list[Any]:
        return commands

    async def send_packed_command(self, commands: list[Any], check_health: bool) -> None:
        self.written.append(len(commands))

    async def read_response(self) -> Any:
        reply = await self.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, nowait: bool) -> None:
        self.closed = True


def _lane(wire: Wire, connects: list[int]) -> Any:
    """Makes a lane whose first connection is this wire; others are not made until the test ends."""

    async def connect(probe: Any) -> Wire:
        connects.append(1)
        if len(connects) > 1:
            await asyncio.Event().wait()
        return wire

    return lambda config, **rest: Lane(config, connect=connect, **rest)


async def _up(gateway: Replica) -> None:
    await until(lambda: not gateway.lane.is_away)


async def test_without_redis_no_call_waits(own: Valkey) -> None:
    """Nobody listens: the policy of each rule answers at once, without a single turn of the loop."""
    own.stop()
    async with replica(own.url, LOCAL) as gateway:
        steps = gateway.ask()
        with pytest.raises(StopIteration) as ended:
            steps.send(None)

        assert ended.value.value is None
        assert await gateway.admitted(5) == 1
        assert set(gateway.failures) == {"connect"}


@pytest.mark.parametrize(("policy", "admitted"), [("local", 2), ("open", 20), ("closed", 0)])
async def test_each_rule_says_what_happens_while_redis_is_away(own: Valkey, policy: str, admitted: int) -> None:
    """Killed by its id: a local share of the limit, everybody, or nobody; and the shared limit again when it is back."""
    async with replica(own.url, {**LOCAL, "on_store_failure": policy}) as gateway:
        assert await gateway.admitted(1) == 1
        os.kill(own.pid, signal.SIGKILL)
        await until(lambda: gateway.lane.is_away and not own.is_running)

        assert await gateway.admitted(20) == admitted

        own.start()
        await _up(gateway)
        assert await gateway.admitted(20) == 4  # a new server, which has forgotten the one before


async def test_a_hung_redis_costs_a_few_calls_their_timeout_once(own: Valkey) -> None:
    """Stopped: those who ask just then wait for the timeout, nobody after them waits at all; and it comes back by itself."""
    async with replica(own.url, {**LOCAL, "on_store_failure": "open"}, timeout="30ms") as gateway:
        await _up(gateway)
        os.kill(own.pid, signal.SIGSTOP)
        try:
            assert await gateway.ask() is None
            assert gateway.lane.is_away
            for _ in range(50):
                with pytest.raises(StopIteration):
                    gateway.ask().send(None)
            await until(lambda: gateway.failures)
            assert gateway.failures[0] == "timeout"
        finally:
            os.kill(own.pid, signal.SIGCONT)

        await _up(gateway)
        assert await gateway.admitted(1) == 1


async def test_a_slow_redis_is_one_that_is_away(own: Valkey) -> None:
    """A store that answers, but later than the timeout, is not asked: only a probe within the timeout ends that."""
    async with replica(own.url, {"rate": 1e6, "on_store_failure": "closed"}, timeout="20ms") as gateway:
        await _up(gateway)
        busy = asyncio.create_task(_keep_busy(own.url, 0.3))

        while (refusal := await gateway.ask()) is None:
            await asyncio.sleep(0)

        assert refusal.store_away
        await until(lambda: gateway.failures)
        assert gateway.failures[0] == "timeout"
        await busy
        await _up(gateway)
        assert await gateway.ask() is None


async def _keep_busy(url: str, seconds: float) -> None:
    async with Redis.from_url(url) as admin:
        await admin.execute_command("DEBUG", "SLEEP", seconds)


async def test_decisions_that_meet_go_out_together() -> None:
    """Calls that come while one batch is on its way make the next one: two writes for many decisions, each with its own reply."""
    wire = Wire()
    async with replica("redis://x", {"per": ["caller"]}, lane=_lane(wire, [])) as gateway:
        first = asyncio.ensure_future(gateway.ask())
        await until(lambda: wire.written == [1])
        rest = [asyncio.ensure_future(gateway.ask(call=call_of(f"c{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        wire.replies.put_nowait(0)
        await until(lambda: wire.written == [1, 10])
        for n in range(10):
            wire.replies.put_nowait([1, n + 1, 0, 9] if n % 2 else 0)
        answers = await asyncio.gather(first, *rest)

    assert wire.written == [1, 10]
    assert answers[0] is None
    assert [round(answer.wait_s * 1e6) if answer else 0 for answer in answers[1:]] == [0, 2, 0, 4, 0, 6, 0, 8, 0, 10]


async def test_more_calls_at_once_than_redis_answers_in_time_do_not_wait() -> None:
    """Past two batches the policy answers, and the store is still asked by the others."""
    wire = Wire()
    async with replica("redis://x", {"per": ["caller"], "on_store_failure": "open"}, lane=_lane(wire, [])) as gateway:
        first = asyncio.ensure_future(gateway.ask())
        await until(lambda: wire.written == [1])
        waiting = [asyncio.ensure_future(gateway.ask(call=call_of(f"c{n}"))) for n in range(MAX_BATCH)]
        await asyncio.sleep(0)

        assert await gateway.ask() is None
        assert gateway.failures == ["busy"]
        assert not gateway.lane.is_away

        wire.replies.put_nowait(0)
        await until(lambda: wire.written == [1, MAX_BATCH])
        for _ in range(MAX_BATCH):
            wire.replies.put_nowait(0)
        await asyncio.gather(first, *waiting)


async def test_a_cancelled_call_harms_no_other() -> None:
    """The reply to a call whose caller went away is not given to the next one."""
    wire = Wire()
    async with replica("redis://x", {"per": ["caller"]}, lane=_lane(wire, [])) as gateway:
        gone, stays = (asyncio.ensure_future(gateway.ask(call=call_of(name))) for name in ("a", "b"))
        await until(lambda: wire.written == [2])
        gone.cancel()
        wire.replies.put_nowait([1, 5_000_000, 0, 0])
        wire.replies.put_nowait(0)

        assert await stays is None
        assert not gateway.limiter.local._held


async def test_a_timeout_ends_all_who_wait_and_the_connection() -> None:
    """One timer for a batch: who is on the way and who waits behind are answered by the policy together, and a late reply is
    nobody's."""
    wire, connects = Wire(), []
    rule = {"per": ["caller"], "on_store_failure": "open"}
    async with replica("redis://x", rule, lane=_lane(wire, connects), timeout="20ms") as gateway:
        first = asyncio.ensure_future(gateway.ask())
        await until(lambda: wire.written == [1])
        second = asyncio.ensure_future(gateway.ask(call=call_of("b")))

        assert await asyncio.gather(first, second) == [None, None]

        wire.replies.put_nowait([1, 5_000_000, 0, 0])
        await until(lambda: wire.closed and len(connects) == 2)
        assert gateway.lane.is_away
        assert gateway.failures == ["timeout"]


async def test_closing_answers_who_waits() -> None:
    """A gateway that stops leaves nobody waiting, and no task behind."""
    wire = Wire()
    before = asyncio.all_tasks()
    async with replica("redis://x", {"on_store_failure": "open"}, lane=_lane(wire, [])) as gateway:
        asked = asyncio.ensure_future(gateway.ask())
        await until(lambda: wire.written == [1])

    assert await asked is None
    assert wire.closed
    assert asyncio.all_tasks() == before
