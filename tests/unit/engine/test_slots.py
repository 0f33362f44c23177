"""Which process is in a slot, with processes that do as they are told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from infermesh.config import ConfigError
from infermesh.engine import supervisor as module
from infermesh.engine.process import Failed, Group
from infermesh.engine.settings import Settings
from infermesh.engine.supervisor import Pace, Supervisor


class Fake:
    """A process that is ready as soon as it is started; `die` ends it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 7
        self.status: int | None = None
        self.is_ready = self.was_ready = False
        self.failed: Failed | None = None
        self.answered_at, self.last_metrics, self.retired = 0.0, "", 0

    @property
    def listens(self) -> bool:
        return self.status is None

    async def start(self) -> None:
        self.is_ready = self.was_ready = True

    async def look(self) -> None:
        pass

    def die(self) -> None:
        self.status = -9

    kill = die

    async def wait(self) -> None:
        pass

    def take_metrics(self) -> str:
        return ""

    async def end(self, grace_s: float) -> None:
        self.retired += 1
        self.status = 0


class Slots:
    """A supervisor of such processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, processes: int, pace: Pace) -> None:
        self.made: list[Fake] = []
        settings = Settings("engine", "127.0.0.1", 0, 0, processes=processes)
        nothing: Any = None
        self.supervisor: Any = Supervisor(Group(nothing, settings, 1, nothing, "", {}), None, pace)
        monkeypatch.setattr(self.supervisor, "_new", self._new)

    def _new(self, *, held: bool) -> Fake:
        self.made.append(Fake(f"process-{len(self.made) + 1}"))
        return self.made[-1]

    def has_made(self, count: int) -> bool:
        return len(self.made) == count and self.made[-1].is_ready

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        slots = range(self.supervisor.group.settings.processes)
        tasks = [asyncio.ensure_future(self.supervisor._keep(slot)) for slot in slots]
        await until(lambda: self.supervisor._was_ready)
        yield
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0)


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """What a pause before a start waits for, instead of its time."""
    over, sleep = asyncio.Event(), asyncio.sleep

    async def waits(seconds: float) -> None:
        await (over.wait() if seconds > 1 else sleep(0))

    monkeypatch.setattr(module.asyncio, "sleep", waits)
    return over


async def test_a_restart_while_a_dead_process_is_waited_for_leaves_one(
    monkeypatch: pytest.MonkeyPatch, pause: asyncio.Event
) -> None:
    """The pause that ends afterwards finds the slot taken, by a process that nobody may lose sight of."""
    slots = Slots(monkeypatch, 1, Pace(first_pause_s=5.0))
    async with slots.kept():
        slots.made[0].die()
        await until(lambda: slots.supervisor._ended_at[0])

        assert await slots.supervisor._replace(0)
        pause.set()
        slots.made[1].die()
        await until(lambda: len(slots.made) == 3)

    assert [each.name for each in slots.supervisor._processes.values()] == ["process-3"]


async def test_processes_that_end_together_are_each_started_again(
    monkeypatch: pytest.MonkeyPatch, pause: asyncio.Event
) -> None:
    """Ends are counted for each by itself, and while another one answers the service goes on."""
    pause.set()
    slots = Slots(monkeypatch, 3, Pace(limit=1, first_pause_s=5.0))
    async with slots.kept():
        for _ in range(4):
            for each in slots.made[-2:]:
                each.die()
            await until(partial(slots.has_made, len(slots.made) + 2))

        assert slots.supervisor._failed is None


async def test_the_last_process_that_keeps_ending_ends_the_service(
    monkeypatch: pytest.MonkeyPatch, pause: asyncio.Event
) -> None:
    pause.set()
    slots = Slots(monkeypatch, 1, Pace(limit=1, first_pause_s=5.0))
    async with slots.kept():
        for at in range(2):
            await until(partial(slots.has_made, at + 1))
            slots.made[at].die()
        await until(lambda: slots.supervisor._failed)

    assert "for the 2. time" in slots.supervisor._failed.text


def test_a_host_may_be_a_name() -> None:
    """Envoy listens on addresses alone; a name without one is a fault of the configuration."""
    assert module._address("127.0.0.1") == "127.0.0.1" and module._address("::1") == "::1"
    addresses = {each[4][0] for each in socket.getaddrinfo("localhost", None)}
    assert module._address("localhost") in addresses

    with pytest.raises(ConfigError, match="expected an address, or a name that has one"):
        module._address("no.such.host.invalid")
