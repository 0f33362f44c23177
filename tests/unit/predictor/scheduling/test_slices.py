"""Large requests run in slices, and others between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.deadline import NO_DEADLINE, Deadline
from infermesh.errors import DeadlineExceeded, InvalidRequest, ResourceExhausted
from services.predictor.scheduling.queue import Queue
from services.predictor.scheduling.request import Request
from services.predictor.scheduling.slices import Slices
from tests.unit.predictor.scheduling.gated import BAD, Gated, turn, until

ROWS = 3
LOW, HIGH = 2, 0


def sliced(model: Gated, independent: Callable[[], bool] = lambda: True, rows: int = ROWS) -> Callable[..., Any]:
    """Begins a request that runs in slices."""
    slices = Slices("m", model.instances, ["x"], rows, independent)

    def ask(values: Any, level: int = LOW, deadline: Deadline = NO_DEADLINE, **others: Any) -> asyncio.Task[list[Any]]:
        x = np.asarray(values, np.float32)
        return asyncio.ensure_future(slices.run({"x": x, **others}, ["y"], len(x), level, Call(deadline=deadline)))

    return ask


async def test_the_answer_is_that_of_the_whole(gated: Any) -> None:
    """In order, the last slice with what is left; counted as one request."""
    model = gated()

    (y,) = await sliced(model)([1, 2, 3, 4, 5, 6, 7])

    assert y.tolist() == [10, 20, 30, 40, 50, 60, 70]
    assert model.runs == [[1, 2, 3], [4, 5, 6], [7]]
    assert model.executed == [(1, 3), (0, 3), (0, 1)]
    assert len(model.waited) == 1


async def test_who_is_urgent_runs_between_slices(gated: Any) -> None:
    """And who has the same level takes turns with it."""
    model = gated(batching={"enabled": False})
    ask = sliced(model)
    model.gate.clear()
    large = ask([1, 2, 3, 4, 5, 6])
    await until(lambda: model.instances.busy == 1)  # a thread has said that rows are independent
    other = ask([11, 12, 13, 14])
    await turn()
    urgent = model.ask(100, level=HIGH)
    await turn()
    model.gate.set()

    await asyncio.gather(large, other, urgent)

    assert model.runs == [[1, 2, 3], [100], [11, 12, 13], [4, 5, 6], [14]]


async def test_a_later_slice_is_not_refused_by_a_full_queue(gated: Any) -> None:
    """It was accepted with the first one."""
    model = gated(max_requests=1, batching={"enabled": False})
    model.gate.clear()
    large = sliced(model)([1, 2, 3, 4])
    await until(lambda: model.instances.busy == 1)
    waiting = model.ask(5, level=LOW)
    await turn()
    with pytest.raises(ResourceExhausted):
        await model.ask(6, level=LOW)
    model.gate.set()

    assert (await large)[0].tolist() == [10, 20, 30, 40]
    await waiting


async def test_a_later_slice_does_not_give_way() -> None:
    """A part of its work is done; who has not begun gives way, though it came before."""
    queue = Queue("m", 3)

    def waiting(*, follows: bool) -> Request:
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        request = Request({}, ["y"], 1, LOW, NO_DEADLINE, answer, 0.0, follows=follows)
        queue.add(request)
        return request

    only = waiting(follows=True)
    assert queue.youngest_below(HIGH) is None
    fresh = waiting(follows=False)
    waiting(follows=True)

    assert queue.youngest_below(HIGH) is fresh
    assert queue.first() is only


async def test_a_slice_that_fails_fails_the_request(gated: Any) -> None:
    """With its error, and what comes after it does not run."""
    model = gated()

    with pytest.raises(ValueError, match="bad among 3"):
        await sliced(model)([1, 2, 3, 4, BAD, 6, 7, 8, 9])

    assert model.runs == [[1, 2, 3], [4, BAD, 6]]
    assert model.instances.busy == 0


async def test_nothing_runs_after_the_deadline(gated: Any) -> None:
    """The slice that it passes in is the last one."""
    model = gated()
    model.takes_s = lambda rows: 1.0

    with pytest.raises(DeadlineExceeded):
        await sliced(model)(range(12), deadline=model.deadline(1.5))

    assert len(model.runs) == 2


async def test_cancelled_between_slices_nothing_more_runs(gated: Any) -> None:
    model = gated()
    model.gate.clear()
    large = sliced(model)([1, 2, 3, 4])
    await until(lambda: model.instances.busy == 1)

    large.cancel()
    await asyncio.wait({large})
    model.gate.set()
    await until(lambda: not model.instances.busy)

    assert large.cancelled()
    assert model.runs in ([], [[1, 2, 3]])  # the run that was under way was told to end, or had ended
    assert model.instances.waiting == 0


@pytest.mark.parametrize("how", ["dependent rows", "another input", "rows that differ", "off"])
async def test_what_can_not_be_cut_runs_whole(gated: Any, how: str) -> None:
    """So does every request where slices are turned off."""
    model = gated(batching={"enabled": False})
    ask = sliced(model, lambda: how != "dependent rows")
    others = {"another input": {"z": np.zeros(4)}}.get(how, {})
    if how == "rows that differ":
        slices = Slices("m", model.instances, ["x", "z"], ROWS, lambda: True)
        given = {"x": np.arange(4, dtype=np.float32), "z": np.zeros(5)}
        await slices.run(given, ["y"], 4, LOW, Call())
    elif how == "off":
        assert Slices("m", model.instances, ["x"], 0, lambda: True).above == float("inf")
        return
    else:
        await ask([0, 1, 2, 3], **others)

    assert model.runs == [[0, 1, 2, 3]]


async def test_outputs_without_a_row_for_each_row_run_whole_from_then_on(gated: Any) -> None:
    """What the trial did not find is found by the first answer."""
    model = gated(batching={"enabled": False})
    model.extra_rows = 1
    ask = sliced(model)

    (first,) = await ask([1, 2, 3, 4])
    (second,) = await ask([1, 2, 3, 4])

    assert first.tolist() == second.tolist() == [10, 20, 30, 40, 10]
    assert model.runs == [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4]]


async def test_whether_rows_are_independent_is_asked_once(gated: Any) -> None:
    asked: list[int] = []
    ask = sliced(gated(), lambda: bool(asked.append(1)) or True)

    await ask([1, 2, 3, 4])
    await ask([1, 2, 3, 4])

    assert asked == [1]


async def test_a_model_in_the_repository_is_sliced_without_batching(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    """The default: what is larger than `slice_rows`, of a model whose rows are independent."""
    put("m", 1, models.add(1))
    predictor = await serve()
    version = predictor.repository.resolve("m", "")
    x = np.arange(10_000, dtype=np.float32)

    answer = await predictor.infer(ask("m", x=x), Call())

    assert np.array_equal(np.frombuffer(answer.raw_output_contents[0] or b"", np.float32), x + 1)
    assert version.statistics.batch_rows.count == 3
    assert version.statistics.compute.count == version.statistics.queue_seconds.count == 1


async def test_a_request_that_the_model_refuses_is_refused_as_before(
    serve: Any, put: Any, models: Any, ask: Any
) -> None:
    put("m", 1, models.add(1))
    predictor = await serve()

    with pytest.raises(InvalidRequest):
        await predictor.infer(ask("m", y=np.arange(10_000, dtype=np.float32)), Call())
