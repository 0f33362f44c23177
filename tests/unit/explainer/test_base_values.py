"""What is remembered of a model's answers about its background."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from infermesh.call import Call
from services.explainer.base_values import BaseValues

BACKGROUND = {"x": np.random.default_rng(1).normal(size=(50, 3))}
ROWS = {"x": np.ones((2, 3))}


def total(given):
    return {"y": (given["x"] * [1.0, 2.0, 3.0]).sum(axis=1, keepdims=True)}


async def first_rows(lab: SimpleNamespace, service, model, **asked) -> tuple[int, np.ndarray]:
    """Rows of the first question of an explanation, and its base values."""
    model.requests.clear()
    answer = lab.Explained(await service.infer(lab.request_of(ROWS, **asked), Call()))
    return model.rows_seen[0], answer.base_values


async def test_the_background_is_asked_about_once_and_then_only_some_rows_of_it(lab: SimpleNamespace) -> None:
    """The second explanation asks about its rows and four of the fifty; the base value has the same bits."""
    model = lab.FunctionModel(total)
    service = lab.explainer(model, BACKGROUND)

    first, base = await first_rows(lab, service, model)
    second, again = await first_rows(lab, service, model)

    assert (first, second) == (50 + 2, 4 + 2)
    assert base.tobytes() == again.tobytes()


async def test_a_model_that_answers_otherwise_under_its_number_is_asked_anew(lab: SimpleNamespace) -> None:
    """Loaded anew, the version has the same name: the rows that are asked about again tell."""
    model = lab.FunctionModel(total)
    service = lab.explainer(model, BACKGROUND)
    await first_rows(lab, service, model)
    model.function = lambda given: {"y": total(given)["y"] * 2}

    _, base = await first_rows(lab, service, model)
    rows, _ = await first_rows(lab, service, model)

    assert base[0, 0] == pytest.approx(2 * total(BACKGROUND)["y"].mean())
    assert rows == 4 + 2


async def test_another_version_another_output_and_other_parameters_have_their_own(lab: SimpleNamespace) -> None:
    """A version that is newer than the metadata say is noticed by its answer."""
    model = lab.FunctionModel(
        lambda given: {"y": total(given)["y"], "z": -total(given)["y"]},
        outputs=[("y", "FP64", (-1, 1)), ("z", "FP64", (-1, 1))],
    )
    service = lab.explainer(model, BACKGROUND)
    await first_rows(lab, service, model)

    assert (await first_rows(lab, service, model, output="z"))[0] == 52
    assert (await first_rows(lab, service, model, flavour="salt"))[0] == 52
    assert (await first_rows(lab, service, model, background="zeros"))[0] == 1 + 2
    model.versions = ["1", "2"]
    model.function = lambda given: {"y": total(given)["y"] + 7}
    assert (await first_rows(lab, service, model))[1][0, 0] == pytest.approx(total(BACKGROUND)["y"].mean() + 7)


async def test_a_link_has_the_same_mean_answer(lab: SimpleNamespace) -> None:
    """It is taken of what is remembered."""
    model = lab.FunctionModel(lambda given: {"y": 1 / (1 + np.exp(-total(given)["y"]))})
    service = lab.explainer(model, BACKGROUND)
    _, base = await first_rows(lab, service, model)

    rows, odds = await first_rows(lab, service, model, link="logit")

    assert rows == 4 + 2
    assert odds == pytest.approx(np.log(base / (1 - base)))


def test_no_more_is_kept_than_the_bound() -> None:
    """The one that was used longest ago goes; an answer of too many columns is not kept."""
    known = BaseValues(entries=2)
    keys = [("model", str(i), "y", b"") for i in range(4)]
    for key in keys[:2]:
        known.keep(key, np.zeros(3), np.zeros((4, 3)))
    assert known.find(keys[0]) is not None

    known.keep(keys[2], np.zeros(3), np.zeros((4, 3)))
    known.keep(keys[3], np.zeros(2**16), np.zeros((4, 2**16)))

    assert len(known) == 2
    assert known.find(keys[1]) is None
    assert known.find(keys[3]) is None
