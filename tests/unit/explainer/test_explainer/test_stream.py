"""Better and better answers in a stream."""

from __future__ import annotations

import asyncio
import math
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import InvalidRequest, Unavailable
from services.explainer import explainer
from services.explainer.estimate import Estimate
from services.explainer.refined import Refined

BACKGROUND = {"x": np.random.default_rng(1).normal(size=(64, 8))}
ROWS = {"x": np.random.default_rng(2).normal(size=(4, 8))}


@pytest.fixture
def rough(lab: SimpleNamespace) -> Any:
    """A model of interactions."""

    def function(given):
        x = given["x"]
        return {"y": (np.sin(3 * x).prod(axis=1) + x[:, 0] * x[:, 1] * x[:, 2])[:, None]}

    return lab.FunctionModel(function, [("x", "FP64", (-1, 8))])


async def streamed(lab: SimpleNamespace, service: Any, call: Call | None = None, **asked: Any) -> list[Any]:
    found = service.stream(lab.request_of(ROWS, **asked), call or Call())
    return [lab.Explained(response) async for response in found]


@pytest.mark.parametrize("method", ["permutation", "kernel"])
async def test_refined_answers_come_before_the_last_one(lab: SimpleNamespace, rough: Any, method: str) -> None:
    """Each whole, additive and not converged, with more evaluations and in the end a smaller error; the last one is `infer`'s."""
    service = lab.explainer(rough, BACKGROUND)
    asked = {"method": method, "max_evals": 2000 if method == "permutation" else 250, "seed": 4}

    answers = await streamed(lab, service, **asked)
    one = lab.Explained(await service.infer(lab.request_of(ROWS, **asked), Call()))

    assert len(answers) >= 2
    assert [answer.parameters["infermesh_converged"] for answer in answers] == [False] * (len(answers) - 1) + [True]
    evaluations = [answer.parameters["infermesh_evaluations"] for answer in answers]
    assert evaluations == sorted(set(evaluations))
    assert all(answer.additivity_error.max() < 1e-9 for answer in answers)
    assert answers[-1].std_error.max() < answers[0].std_error.max()
    assert answers[-1].attributions.tobytes() == one.attributions.tobytes()


async def test_at_the_deadline_the_last_answer_is_the_best_and_not_converged(lab: SimpleNamespace, rough: Any) -> None:
    """The model stops answering after some rounds: what was told last is what there is, and nothing is under way afterwards."""
    service = lab.explainer(rough, BACKGROUND, deadline={"reserve": "50ms"})
    answer_now = rough.answer

    def answer(request, version):
        if len(rough.requests) == 6:
            rough.hold = asyncio.Event()  # nobody sets it
        return answer_now(request, version)

    rough.answer = answer
    call = Call(deadline=Deadline.after(0.6))

    answers = await streamed(lab, service, call, method="permutation", max_evals=100_000)

    assert answers[-1].parameters["infermesh_converged"] is False
    assert answers[-1].parameters["infermesh_evaluations"] > 2
    assert rough.in_flight == 0


async def test_closing_the_stream_ends_all_work(lab: SimpleNamespace, rough: Any) -> None:
    """After the first answer its reader goes away: no question is under way, none comes after, and the turn is free."""
    service = lab.explainer(rough, BACKGROUND, limits={"concurrent": 1, "queue": 0})
    found = service.stream(lab.request_of(ROWS, method="permutation", max_evals=100_000), Call())

    await anext(found)
    await found.aclose()

    asked = len(rough.requests)
    assert rough.in_flight == 0
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(rough.requests) == asked
    await service.infer(lab.request_of(ROWS, max_evals=100), Call())


async def test_cancelling_whoever_waits_for_an_answer_ends_all_work(lab: SimpleNamespace, rough: Any) -> None:
    """As it does for `infer`."""
    service = lab.explainer(rough, BACKGROUND, limits={"concurrent": 1, "queue": 0})
    rough.hold = asyncio.Event()
    for ask in (
        lambda request: anext(service.stream(request, Call())),
        lambda request: service.infer(request, Call()),
    ):
        work = asyncio.ensure_future(ask(lab.request_of(ROWS, method="kernel", max_evals=100)))
        while not rough.in_flight:
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert rough.in_flight == 0


async def test_a_slow_reader_keeps_no_turn_and_misses_what_was_replaced(lab: SimpleNamespace, rough: Any) -> None:
    """The explanation is done while its first answer is being read: others get their turn, and the next answer is the last."""
    service = lab.explainer(rough, BACKGROUND, limits={"concurrent": 1, "queue": 1})
    found = service.stream(lab.request_of(ROWS, method="permutation", max_evals=3000), Call())

    first = lab.Explained(await anext(found))
    await service.infer(lab.request_of(ROWS, max_evals=100), Call())
    rest = [lab.Explained(response) async for response in found]

    assert first.parameters["infermesh_converged"] is False
    assert [answer.parameters["infermesh_converged"] for answer in rest] == [True]


async def test_a_fault_ends_the_stream_after_what_was_told(lab: SimpleNamespace, rough: Any) -> None:
    """An estimate that was told stays told; the fault of the predictor is no answer. What is refused has no answer before."""
    service = lab.explainer(rough, BACKGROUND)
    answer_now = rough.answer

    def answer(request, version):
        if len(rough.requests) > 8:
            raise Unavailable("predictor: connection refused")
        return answer_now(request, version)

    rough.answer = answer
    told = []
    with pytest.raises(Unavailable, match="connection refused"):
        async for response in service.stream(lab.request_of(ROWS, method="permutation", max_evals=50_000), Call()):
            told.append(response)  # noqa: PERF401  # what was told before the fault is to be seen
    assert told

    with pytest.raises(InvalidRequest, match='parameter "method"'):
        await streamed(lab, service, method="guess")


def test_few_answers_are_told_however_many_there_are() -> None:
    """The first, one whose error is half, one after a quarter of a second; not one that is hardly better."""
    now = 0.0
    refined = Refined(lambda: now)

    def worth(error: float) -> bool:
        return refined.is_worth(Estimate(np.zeros((1, 2, 1)), np.full((1, 2, 1), error), 4, converged=False))

    assert worth(math.inf)
    assert worth(1.0) is False  # how much better than not known can't be told: a quarter of a second it is
    now = 0.25
    assert worth(1.0)
    assert not worth(0.6)
    assert worth(0.5)
    assert not worth(0.4)
    now = 0.5
    assert worth(0.45)


async def test_large_answers_on_the_way_are_not_built_on_the_loop(
    lab: SimpleNamespace, rough: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one that nobody reads built at all."""
    built: list[bool] = []
    response_of = explainer.response_of

    def recorded(*given: Any) -> Any:
        built.append(threading.current_thread() is threading.main_thread())
        return response_of(*given)

    monkeypatch.setattr(explainer, "response_of", recorded)
    service = lab.explainer(rough, BACKGROUND)
    many = {"x": np.random.default_rng(3).normal(size=(300, 8))}

    found = service.stream(lab.request_of(many, method="permutation", max_evals=600), Call())
    answers = [response async for response in found]

    assert len(answers) >= 2
    assert built[:-1] == [False] * (len(built) - 1)
    assert len(built) == len(answers)
