"""How many copies of one shadow there are at a time."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.copies import Copies


class Crowd:
    """Copies that take a turn and keep it until they are let go."""

    def __init__(self, most: int) -> None:
        self.copies = Copies()
        self.inside: list[str] = []
        self.most = most
        self.go: dict[str, asyncio.Event] = {}

    def start(self, name: str) -> None:
        self.go[name] = asyncio.Event()
        self.copies.start(self._stay(name), name)

    async def _stay(self, name: str) -> None:
        async with self.copies.turn(self.most):
            self.inside.append(name)
            await self.go[name].wait()
            self.inside.remove(name)

    def task(self, name: str) -> asyncio.Task[None]:
        return next(task for task in self.copies if task.get_name() == name)


@pytest.fixture
async def crowd():
    made = Crowd(2)
    yield made
    for task in list(made.copies):
        task.cancel()
    await asyncio.gather(*made.copies, return_exceptions=True)


async def test_first_come_first_served(crowd, settle):
    """Two are under way, the others follow in order as places become free."""
    for name in "abcd":
        crowd.start(name)
    await settle()
    assert crowd.inside == ["a", "b"]
    assert len(crowd.copies) == 4

    crowd.go["b"].set()
    await settle()
    assert crowd.inside == ["a", "c"]
    crowd.go["a"].set()
    await settle()
    assert crowd.inside == ["c", "d"]
    assert len(crowd.copies) == 2


async def test_one_that_no_longer_waits_takes_no_place(crowd, settle):
    """A copy that is cancelled while it waits is passed over."""
    for name in "abcd":
        crowd.start(name)
    await settle()

    crowd.task("c").cancel()
    crowd.go["a"].set()
    await settle()

    assert crowd.inside == ["b", "d"]


async def test_a_place_that_is_given_to_one_who_goes_is_not_lost(crowd, settle):
    """Cancelled in the moment in which its turn comes: the next one has it."""
    for name in "abcd":
        crowd.start(name)
    await settle()
    waiting = crowd.task("c")

    crowd.go["a"].set()
    while "a" in crowd.inside:
        await asyncio.sleep(0)
    waiting.cancel()
    await settle()

    assert crowd.inside == ["b", "d"]
    crowd.go["b"].set()
    crowd.go["d"].set()
    await settle()
    crowd.start("e")
    crowd.start("f")
    await settle()
    assert crowd.inside == ["e", "f"]
