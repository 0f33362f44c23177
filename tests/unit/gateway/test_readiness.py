"""Tests of what watches whether variants are ready."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from infermesh.errors import Internal, NotFound, Unavailable
from services.gateway import readiness
from services.gateway.readiness import Gate, Place, ReadinessWatch


class Asked:
    """What is watched: answers what it is told to, and counts how often it was asked."""

    def __init__(self, watch: ReadinessWatch, name: str = "a") -> None:
        self.answer: bool | Exception | asyncio.Event = True
        self.times = 0
        self.changes: list[bool] = []
        self.gate: Gate = watch.gate(Place("one", name, "1"), self._ask)

    def hear(self) -> None:
        self.changes.append(self.gate.open)

    async def _ask(self) -> bool:
        self.times += 1
        if isinstance(self.answer, asyncio.Event):
            await self.answer.wait()
            return True
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


Make = Callable[..., tuple[ReadinessWatch, list[Asked]]]


@pytest.fixture
def make(clock: Any) -> Make:
    """make(n, every_s=…): a watch on the fake clock over n variants, without jitter."""

    def made(count: int = 1, **settings: Any) -> tuple[ReadinessWatch, list[Asked]]:
        watch = ReadinessWatch(clock=clock, draw=lambda: 0.5)
        asked = [Asked(watch, f"m{number}") for number in range(count)]
        watch.adopt({each.gate: [each.hear] for each in asked}, **{"every_s": 10.0, **settings})
        return watch, asked

    return made


async def _look(watch: ReadinessWatch) -> float:
    pause_s = watch.look()
    await watch.settled()
    return pause_s


async def test_each_is_asked_once_in_a_while(make: Make, clock: Any) -> None:
    """The first time within the first period, from then on once in each, and nobody is asked in between."""
    watch, (asked,) = make()

    assert await _look(watch) == 5.0
    for expected in (1, 2, 3):
        clock.now += 10.0
        assert await _look(watch) == pytest.approx(10.0)
        await _look(watch)
        assert asked.times == expected


async def test_one_answer_changes_nothing_and_the_next_is_asked_for_soon(make: Make, clock: Any) -> None:
    """`fall` answers in a row that say no close the gate, `rise` that say yes open it; who listens hears of each change."""
    watch, (asked,) = make(fall=2, rise=3)
    asked.answer = False
    clock.now += 10.0

    await _look(watch)
    assert asked.gate.open
    clock.now += readiness.DOUBT_S
    await _look(watch)
    assert not asked.gate.open
    asked.answer = True
    for _ in range(2):
        clock.now += 10.0
        await _look(watch)
    assert not asked.gate.open
    clock.now += 10.0
    await _look(watch)

    assert asked.gate.open
    assert asked.changes == [False, True]


async def test_one_that_flaps_stays_as_it_was(make: Make, clock: Any) -> None:
    """Answers that change each time never come to the number that counts."""
    watch, (asked,) = make(fall=2, rise=2)

    for number in range(40):
        asked.answer = number % 2 == 0
        clock.now += 10.0
        await _look(watch)

    assert asked.times == 40
    assert asked.gate.open
    assert asked.changes == []


@pytest.mark.parametrize(
    ("error", "open_after"),
    [(Unavailable("away"), False), (NotFound("no such version"), False), (Internal("?"), True), (KeyError("?"), True)],
)
async def test_what_can_not_answer_is_not_ready(make: Make, clock: Any, error: Exception, open_after: bool) -> None:
    """Away, or without the model, is not ready; a failure that is about something else says nothing."""
    watch, (asked,) = make(fall=1)
    asked.answer = error
    clock.now += 10.0

    await _look(watch)

    assert asked.times == 1
    assert asked.gate.open is open_after


async def test_one_that_never_answers_is_not_ready(make: Make, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe has an end of its own."""
    monkeypatch.setattr(readiness, "PROBE_TIMEOUT_S", 0.001)
    watch, (asked,) = make(fall=1)
    asked.answer = asyncio.Event()
    clock.now += 10.0

    await _look(watch)

    assert not asked.gate.open


async def test_a_call_that_finds_it_away_brings_the_next_probe_forward(make: Make, clock: Any) -> None:
    """At once, and not again within a quarter of a second, however many calls fail."""
    watch, (asked,) = make()
    clock.now += 1.0

    for _ in range(100):
        watch.suspect(asked.gate)
    assert await _look(watch) > 0
    assert asked.times == 1
    for _ in range(100):
        watch.suspect(asked.gate)
        await _look(watch)
    assert asked.times == 1
    clock.now += readiness.SUSPECT_PAUSE_S
    await _look(watch)

    assert asked.times == 2


async def test_probes_under_way_are_bounded(make: Make, clock: Any) -> None:
    """With many that hang no more than the bound are being asked; the others are when those are done."""
    watch, many = make(3 * readiness.MAX_AT_ONCE)
    hanging = asyncio.Event()
    for each in many:
        each.answer = hanging
    clock.now += 1000.0

    assert watch.look() == float("inf")
    await asyncio.sleep(0)
    assert sum(each.times for each in many) == readiness.MAX_AT_ONCE
    hanging.set()
    for _ in range(3):
        await watch.settled()
        watch.look()
    await watch.settled()

    assert all(each.times == 1 for each in many)


async def test_of_many_each_is_asked_less_often(clock: Any) -> None:
    """2,000 variants every 10 s would be 200 probes a second; it is 50, whatever the setting says, and none is left out."""
    watch = ReadinessWatch(clock=clock, draw=random.Random(3).random)
    many = [Asked(watch, f"m{number}") for number in range(2000)]
    watch.adopt({each.gate: [] for each in many}, every_s=10.0)

    seconds = 120
    for _ in range(5 * seconds):
        clock.now += 0.2
        await _look(watch)

    assert sum(each.times for each in many) == pytest.approx(readiness.MAX_PER_S * seconds, rel=0.1)
    assert min(each.times for each in many) >= 2


async def test_a_gate_outlives_tables(make: Make, clock: Any) -> None:
    """What was found out counts in the next table too; what it does not have is not asked any more, nor told of changes."""
    watch, (kept, dropped) = make(2, fall=1)
    kept.answer = dropped.answer = False
    clock.now += 10.0
    await _look(watch)
    heard: list[str] = []

    again = watch.gate(kept.gate.place, kept._ask)
    watch.adopt({again: [lambda: heard.append("kept")]}, every_s=10.0)
    clock.now += 100.0
    await _look(watch)

    assert again is kept.gate
    assert not again.open
    assert heard == ["kept"]  # a table that comes to a closed gate is told at once
    assert (kept.times, dropped.times) == (2, 1)
    assert watch.gate(dropped.gate.place, dropped._ask).open


async def test_the_watch_runs_by_itself_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started, it asks without being told to; closed, nothing is left that runs."""
    watch = ReadinessWatch(draw=lambda: 0.0)
    asked = Asked(watch)
    watch.adopt({asked.gate: [asked.hear]}, every_s=0.1, fall=1)
    asked.answer = Unavailable("away")

    before = asyncio.all_tasks()
    watch.start()
    async with asyncio.timeout(10):
        while asked.gate.open:
            await asyncio.sleep(0.001)
    await watch.close()

    assert asyncio.all_tasks() == before
