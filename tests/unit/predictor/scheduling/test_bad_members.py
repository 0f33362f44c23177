"""Batches that fail: who gets the error, what it costs the others, and what is learned from it."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from infermesh.errors import DeadlineExceeded, ResourceExhausted
from tests.unit.predictor.scheduling.gated import BAD, Gated, turn, until


async def together(model: Gated, *values: float) -> list[Any]:
    """The answers of requests that came while the instance was busy."""
    held = await model.hold()
    calls = [model.ask(value) for value in values]
    await turn()
    model.gate.set()
    await held
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_a_bad_member_fails_alone(gated: Any) -> None:
    """When a batch fails its halves are run, down to single members: who caused it gets the error of a run of its own, the others
    their rows."""
    model = gated()

    answers = await together(model, 1, BAD, 3)

    assert answers[0][0].tolist() == [10]
    assert str(answers[1]) == "bad among 1"
    assert answers[2][0].tolist() == [30]
    assert model.runs[1:] == [[1, BAD, 3], [1, BAD], [1], [BAD], [3]]
    assert model.executed == [(1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("at", [0, 31, 63])
async def test_one_bad_member_of_many_costs_few_runs(gated: Any, at: int) -> None:
    """Two for each time that the batch can be halved, not one for each member."""
    model = gated()
    values = [BAD if position == at else position + 1 for position in range(64)]

    answers = await together(model, *values)

    assert [position for position, answer in enumerate(answers) if isinstance(answer, ValueError)] == [at]
    assert [a[0].tolist() for p, a in enumerate(answers) if p != at] == [
        [10 * v] for p, v in enumerate(values) if p != at
    ]
    assert len(model.runs) == 1 + 1 + 2 * math.log2(64)


async def test_all_bad_fail_each_for_its_own(gated: Any) -> None:
    """Nobody is failed by the run of others, however many are bad."""
    model = gated()

    answers = await together(model, *[BAD] * 8)

    assert [str(answer) for answer in answers] == ["bad among 1"] * 8


async def test_after_a_failure_batches_are_smaller_and_grow_again(gated: Any) -> None:
    """Half as many members after each batch that failed, one more after each that did not; then as before."""
    model = gated(batching={"max_rows": 8})
    await together(model, 1, 2, 3, BAD, 5, 6, 7, 8)
    begun = len(model.runs)

    await together(model, *range(1, 28))

    assert [len(run) for run in model.runs[begun + 1 :]] == [5, 6, 7, 8, 1]  # the held one succeeded alone: 4 + 1
    await together(model, *[1] * 8)
    assert len(model.runs[-1]) == 8


async def test_a_stream_of_bad_requests_ends_in_small_batches(gated: Any) -> None:
    """One bad one in every batch: the bound falls to what a single run costs, and not below one member."""
    model = gated()

    for _ in range(8):
        await together(model, *[BAD] * 8)

    assert model.instances._batching._most_members <= 3
    assert [str(a) for a in await together(model, BAD)] == ["bad among 1"]


async def test_each_is_checked_again_before_a_run_of_its_half(gated: Any) -> None:
    """After a failed batch, a member whose deadline has passed meanwhile is run no more."""
    model = gated()
    await model.hold()
    calls = [model.ask(1), model.ask(BAD), model.ask(3, deadline=model.deadline(1))]
    await turn()
    model.takes_s = lambda rows: 2.0 if rows > 2 else 0.0
    model.gate.set()

    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert model.runs[1:] == [[1, BAD, 3], [1, BAD], [1], [BAD]]
    assert answers[0][0].tolist() == [10]
    assert isinstance(answers[2], DeadlineExceeded)


async def test_a_half_that_nobody_waits_for_is_ended(gated: Any) -> None:
    """While the halves run, those who went away end their own and no other."""
    model = gated()
    held = await model.hold()
    calls = [model.ask(value) for value in (1, 2, BAD, 4)]
    await turn()
    model.takes_s = lambda rows: model.gate.clear() or 0.0  # after each run the next one waits at the gate
    model.gate.set()
    await held
    await until(lambda: len(model.devices) == 2)
    model.gate.set()
    await until(lambda: len(model.devices) == 3)  # the first half
    for call in calls[:2]:
        call.cancel()
    model.takes_s = lambda rows: 0.0
    await until(lambda: len(model.devices) == 4)  # the second
    model.gate.set()

    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert model.runs[1:] == [[1, 2, BAD, 4], [BAD, 4], [BAD], [4]]
    assert [type(answer).__name__ for answer in answers] == ["CancelledError", "CancelledError", "ValueError", "list"]


async def test_the_runs_of_a_failed_batch_are_waited_for(gated: Any) -> None:
    """Who comes while halves are run, and can't wait for all of them, is refused at once."""
    model = gated(batching={"max_rows": 8})
    for rows in (1, 8) * 10:
        model.instances._estimate.observe(4 * rows, 10.0)
    held = await model.hold()
    calls = [model.ask(value) for value in (1, 2, 3, 4, 5, 6, 7, BAD)]
    await turn()
    model.takes_s = lambda rows: model.gate.clear() or 0.0
    model.gate.set()
    await held
    await until(lambda: len(model.devices) == 2)
    in_time = model.ask(9, deadline=model.deadline(40))
    await turn()
    model.gate.set()
    await until(lambda: len(model.devices) == 3)  # a half of the six runs that are to come

    with pytest.raises(ResourceExhausted, match=r"expected to be answered in (69|70|71)\d{3} ms"):
        await model.ask(9, deadline=model.deadline(40))

    model.takes_s = lambda rows: 0.0
    model.gate.set()
    await asyncio.gather(*calls, in_time, return_exceptions=True)
