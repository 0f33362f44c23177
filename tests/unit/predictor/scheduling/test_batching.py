"""What runs together: in which order, within which bounds, and who gets what."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from infermesh.errors import DeadlineExceeded
from tests.unit.predictor.scheduling.gated import turn, until


async def test_what_waits_runs_together_and_each_gets_its_own_rows(gated: Any) -> None:
    """Requests that came while the instance was busy are one run; each is answered with its own rows, in its order."""
    model = gated()
    held = await model.hold()
    calls = [model.ask(1, 2), model.ask(3), model.ask(4, 5, 6)]
    await turn()
    model.gate.set()

    answers = [(await call)[0].tolist() for call in calls]

    assert answers == [[10, 20], [30], [40, 50, 60]]
    assert model.runs == [[0], [1, 2, 3, 4, 5, 6]]
    assert model.executed == [(1, 1), (3, 6)]
    assert len(model.waited) == 4
    await held


async def test_a_lone_request_runs_at_once(gated: Any) -> None:
    """On an idle instance nothing is waited for: the run begins in the same turn of the loop."""
    model = gated()

    held = await model.hold()

    assert (model.instances.running, model.instances.waiting) == (1, 0)
    model.gate.set()
    await held


async def test_without_batching_each_runs_by_itself(gated: Any) -> None:
    """Off means off: first in, first out, one at a time."""
    model = gated(batching={"enabled": False})
    await model.hold()
    calls = [model.ask(n) for n in (1, 2, 3)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert model.runs == [[0], [1], [2], [3]]


async def test_rows_are_bounded_and_the_rest_is_the_next_batch(gated: Any) -> None:
    """A batch ends before the first that would make it too large; those behind that one do not overtake it."""
    model = gated(batching={"max_rows": 4})
    await model.hold()
    calls = [model.ask(1, 1), model.ask(2), model.ask(3, 3), model.ask(4)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert model.runs[1:] == [[1, 1, 2], [3, 3, 4]]


async def test_bytes_are_bounded(gated: Any) -> None:
    """`max_bytes` counts the inputs' bytes."""
    model = gated(batching={"max_bytes": "8B"})
    await model.hold()
    calls = [model.ask(n) for n in (1, 2, 3)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert model.runs[1:] == [[1, 2], [3]]


async def test_bytes_of_strings_are_the_texts_own(gated: Any) -> None:
    """A text of a kilobyte is no pointer of eight bytes."""
    model = gated(names=["x", "z"], batching={"max_bytes": "1500B"})
    await model.hold()
    text = np.array(["t" * 1000], np.object_)
    calls = [model.ask(1, z=text), model.ask(2, z=text)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert model.runs[1:] == [[1], [2]]


async def test_a_request_larger_than_the_bound_runs_whole_and_alone(gated: Any) -> None:
    """It is neither cut nor refused, and nobody shares its run."""
    model = gated(batching={"max_rows": 3})
    await model.hold()
    calls = [model.ask(1), model.ask(2, 2, 2, 2, 2), model.ask(3)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert model.runs[1:] == [[1], [2, 2, 2, 2, 2], [3]]


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.ones(1, np.float64)},
        {"x": np.ones((1, 2), np.float32)},
        {"outputs": ("y", "w")},
        {"z": np.ones((1, 2), np.float32)},
        {"z": np.ones(2, np.float32)},
        {"z": np.float32(1)},
    ],
    ids=["datatype", "inner shape", "outputs", "of another input", "rows that differ", "scalar beside rows"],
)
async def test_only_equal_signatures_share_a_run(gated: Any, other: Any) -> None:
    """Datatypes, inner shapes and outputs asked for have to be the same; order is kept round the odd one."""
    model = gated(names=["x", "z"])
    z = {"z": np.ones(1, np.float32)}
    await model.hold()
    values = () if "x" in other else (2,)
    calls = [model.ask(1, **z), model.ask(*values, **(z | other)), model.ask(3, **z)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert [len(run) for run in model.runs[1:]] == [1, 1, 1]
    assert model.runs[3] == [3]


async def test_who_gives_an_optional_input_runs_alone(gated: Any) -> None:
    """It may be a weight, whose first dimension is no row: joined, each would get the others' too."""
    model = gated()
    w = {"w": np.ones(1, np.float32)}
    await model.hold()
    calls = [model.ask(1, **w), model.ask(2, **w), model.ask(3), model.ask(4)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert model.runs[1:] == [[1], [2], [3, 4]]


async def test_a_cancelled_member_leaves_before_the_run(gated: Any) -> None:
    """Who went away is not run, and the others are."""
    model = gated()
    await model.hold()
    calls = [model.ask(n) for n in (1, 2, 3)]
    await turn()
    calls[1].cancel()
    await turn()
    assert model.instances.waiting == 2
    model.gate.set()

    await asyncio.gather(*calls, return_exceptions=True)

    assert model.runs[1:] == [[1, 3]]


async def test_a_member_cancelled_in_a_run_harms_nobody(gated: Any) -> None:
    """The run goes on for those who stay."""
    model = gated()
    held = await model.hold()
    calls = [model.ask(n) for n in (1, 2, 3)]
    await turn()
    model.takes_s = lambda rows: model.gate.clear() or 0.0  # when the first run ends, the next one waits at the gate
    model.gate.set()
    await held
    await until(lambda: model.instances.running == 3)
    calls[1].cancel()
    await turn()
    model.gate.set()

    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert answers[0][0].tolist() == [10]
    assert isinstance(answers[1], asyncio.CancelledError)
    assert answers[2][0].tolist() == [30]


async def test_a_run_that_nobody_waits_for_any_more_is_ended(gated: Any) -> None:
    """With its last member a batch is told to end, and the instance is free again."""
    model = gated()
    held = await model.hold()
    held.cancel()
    calls = [model.ask(n) for n in (1, 2)]
    await turn()
    await until(lambda: model.instances.running == 2)

    for call in calls:
        call.cancel()
    await until(lambda: not model.instances.busy)

    assert model.runs == []


async def test_an_expired_member_is_dropped_before_the_run(gated: Any) -> None:
    """It is DEADLINE_EXCEEDED and not started; those round it run."""
    model = gated()
    held = await model.hold()
    calls = [model.ask(1), model.ask(2, deadline=model.deadline(1)), model.ask(3)]
    await turn()
    model.now = 2.0
    model.gate.set()

    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert model.runs[1:] == [[1, 3]]
    assert isinstance(answers[1], DeadlineExceeded)
    assert answers[1].rejected
    assert "the deadline passed in its queue" in str(answers[1])
    await held


async def test_nobody_is_answered_after_the_deadline(gated: Any) -> None:
    """A run that takes longer than one member's deadline answers the others."""
    model = gated()
    await model.hold()
    calls = [model.ask(1), model.ask(2, deadline=model.deadline(1))]
    await turn()
    model.takes_s = lambda rows: 2.0 if rows > 1 else 0.0
    model.gate.set()

    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert answers[0][0].tolist() == [10]
    assert isinstance(answers[1], DeadlineExceeded)
    assert not answers[1].rejected


async def test_a_batch_grows_only_while_its_earliest_deadline_is_kept(gated: Any) -> None:
    """The expected end of the batch comes before the earliest deadline in it."""
    model = gated()
    for rows in (1, 2, 3, 4, 5, 6):
        model.instances._estimate.observe(4 * rows, 0.1 * rows)
    held = await model.hold()
    deadline = model.deadline(0.35)
    calls = [model.ask(n, deadline=deadline if n == 2 else model.deadline(100)) for n in (1, 2, 3, 4, 5)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert model.runs[1:] == [[1, 2, 3], [4, 5]]
    await held


async def test_one_that_is_late_in_any_case_does_not_make_others_late(gated: Any) -> None:
    """A member that can't be in time even alone sets no bound for the batch."""
    model = gated(refuse_late=False)
    for rows in (1, 2, 3, 4, 5, 6):
        model.instances._estimate.observe(4 * rows, 0.1 * rows)
    await model.hold()
    calls = [model.ask(1, deadline=model.deadline(0.01)), model.ask(2), model.ask(3)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert model.runs[1:] == [[1, 2, 3]]


async def test_outputs_that_are_not_one_row_each_end_batching(gated: Any) -> None:
    """Members run singly then, and no batch is tried again: it would be run twice every time."""
    model = gated()
    model.extra_rows = 1
    await model.hold()
    calls = [model.ask(n) for n in (1, 2)]
    await turn()
    model.gate.set()
    answers = [(await call)[0].tolist() for call in calls]
    assert (answers, model.runs[1:]) == ([[10], [20]], [[1, 2], [1], [2]])

    await model.hold()
    calls = [model.ask(n) for n in (3, 4)]
    await turn()
    model.gate.set()
    await asyncio.gather(*calls)

    assert model.runs[5:] == [[3], [4]]


async def test_order_is_kept_for_each_level_and_higher_levels_go_first(gated: Any) -> None:
    """A batch is filled from the highest level on; what does not fit begins the next one."""
    model = gated(batching={"max_rows": 3})
    await model.hold()
    calls = [model.ask(10 * level + n, level=level) for n in range(3) for level in (2, 1, 0)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert model.runs[1:] == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]


async def test_a_batch_goes_on_into_the_next_level(gated: Any) -> None:
    """Room that a level leaves is for the one below it."""
    model = gated(batching={"max_rows": 4})
    await model.hold()
    calls = [model.ask(20, level=2), model.ask(10, level=1), model.ask(0, level=0)]
    await turn()
    model.gate.set()

    await asyncio.gather(*calls)

    assert model.runs[1:] == [[0, 10, 20]]


async def test_instances_of_all_devices_share_one_queue(gated: Any) -> None:
    """Two instances on each of two devices run four requests at a time, two on each."""
    model = gated(instances=2, devices=2)
    model.gate.clear()
    calls = [model.ask(n) for n in range(5)]
    await until(lambda: len(model.devices) == 4)

    assert (model.instances.busy, model.instances.waiting) == (4, 1)
    assert sorted(model.devices) == [0, 0, 1, 1]
    model.gate.set()
    await asyncio.gather(*calls)
