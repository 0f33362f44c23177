"""What `auto` takes, by the time that there is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from services.explainer.config import MethodsConfig
from services.explainer.methods.choose import Chosen, Work, choose
from services.explainer.methods.kernel import HELD_VALUES
from services.explainer.paces import Paces
from services.explainer.parameters import Parameters

AUTO, CONFIG = Parameters(), MethodsConfig()


@pytest.mark.parametrize(
    ("left_s", "row_s", "method"),
    [(float("inf"), 1.0, "exact"), (30, 1e-4, "exact"), (30, 2e-4, "kernel"), (1, 1e-5, "kernel"), (1, 1e-6, "exact")],
)
def test_exact_is_taken_when_it_fits_in_half_of_the_time(left_s: float, row_s: float, method: str) -> None:
    """1,024 coalitions of 100 rows each: 102,400 rows at the model's pace."""
    assert choose(AUTO, 10, Work(1, 1, 100, row_s, left_s), CONFIG).method == method


def test_a_method_that_is_named_does_not_look_at_the_clock() -> None:
    """It is tried, and the deadline ends it."""
    slow = Work(1, 1, 100, 1.0, 0.1)
    for method in ("exact", "kernel", "permutation"):
        assert choose(Parameters(method), 10, slow, CONFIG).method == method


@pytest.mark.parametrize(
    ("players", "rows", "method"),
    [(256, 1, "kernel"), (257, 1, "permutation"), (100, 1, "kernel"), (100, 10_000, "permutation")],
)
def test_permutations_are_sampled_where_the_regression_would_be_large(players: int, rows: int, method: str) -> None:
    """By features, and by the values that it would hold."""
    chosen = choose(AUTO, players, Work(rows, 1, 100, 1e-6, 30), CONFIG)

    assert chosen.method == method
    assert chosen == Chosen("permutation", 32) or chosen.pairs * rows <= HELD_VALUES


def test_the_pace_of_a_model_is_that_of_its_last_explanation() -> None:
    """By version; an explanation that asked about no rows tells nothing, and no more versions are known than the bound."""
    paces = Paces()

    paces.learn("model", "1", 1.0, 100_000)
    paces.learn("model", "2", 1.0, 0)

    assert paces.find("model", "1") == pytest.approx(1e-5)
    assert paces.find("model", "2") is None
    for number in range(300):
        paces.learn("other", str(number), 1.0, 10)
    assert paces.find("model", "1") is None


async def test_a_short_deadline_makes_auto_sample_and_a_long_one_does_not(lab: SimpleNamespace) -> None:
    """Over the whole service, with a clock by which each row takes a millisecond: 4,096 coalitions against 20 rows take 82 s,
    which some of them tell, and from then on it is known."""
    now = 0.0
    model = lab.FunctionModel(
        lambda given: {"y": np.tanh(given["x"]).prod(axis=1, keepdims=True)}, [("x", "FP64", (-1, 12))]
    )
    answer_now = model.answer

    def answer(request, version):
        nonlocal now
        now += 0.001 * request.inputs[0].shape[0]
        return answer_now(request, version)

    model.answer = answer
    draw = np.random.default_rng(0)
    background, rows = {"x": draw.normal(size=(20, 12))}, {"x": draw.normal(size=(1, 12))}
    found = []
    for seconds in ((100.0, 1000.0), (1000.0, 100.0)):
        service = lab.explainer(model, background, clock=lambda: now)
        for left in seconds:
            call = Call(deadline=Deadline(now + left, clock=lambda: now))
            answered = lab.Explained(await service.infer(lab.request_of(rows), call))
            found.append(answered.parameters["infermesh_method"])

    assert found == ["kernel", "exact", "exact", "kernel"]


async def test_a_few_coalitions_are_not_tried_before_they_are_asked_about(lab: SimpleNamespace) -> None:
    """The 16 of four features are asked about once, whatever the deadline is."""
    model = lab.FunctionModel(lambda given: {"y": given["x"].prod(axis=1, keepdims=True)}, [("x", "FP64", (-1, 4))])

    answer = await lab.explain(
        model, {"x": np.zeros((1, 4))}, {"x": np.ones((1, 4))}, call=Call(deadline=Deadline.after(30))
    )

    assert answer.parameters["infermesh_method"] == "exact"
    assert answer.parameters["infermesh_rows_sent"] == 2 + 14
