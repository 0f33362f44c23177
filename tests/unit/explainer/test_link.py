"""Explanations of log-odds."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from infermesh.errors import FailedPrecondition
from services.explainer.coalitions import all_subsets, shapley_weights

WEIGHTS = np.array([1.0, -2.0, 0.5])


def probability(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(x * WEIGHTS).sum(axis=1, keepdims=True)))


def model(lab: SimpleNamespace, function=probability):
    return lab.FunctionModel(lambda given: {"y": function(given["x"])})


@pytest.mark.parametrize("method", ["exact", "permutation", "kernel"])
async def test_the_link_is_taken_of_the_mean_answer(lab: SimpleNamespace, method: str) -> None:
    """Base value and prediction are log-odds of means, and attributions add up between them; by three features all methods are
    exact or sample what is."""
    draw = np.random.default_rng(0)
    background, rows = draw.normal(size=(5, 3)), draw.normal(size=(2, 3))

    answer = await lab.explain(model(lab), {"x": background}, {"x": rows}, method=method, link="logit", max_evals=2000)

    mean = probability(background).mean()
    assert answer.base_values == pytest.approx(np.full((2, 1), np.log(mean / (1 - mean))), abs=1e-12)
    assert answer.predictions[:, 0] == pytest.approx((rows * WEIGHTS).sum(axis=1), abs=1e-9)
    assert answer.additivity_error.max() < 1e-9
    assert answer.parameters["infermesh_link"] == "logit"

    for row, attributions in zip(rows, answer.attributions, strict=True):
        means = np.array([probability(np.where(known, row, background)).mean() for known in all_subsets(3)])
        expected = shapley_weights(3) @ np.log(means / (1 - means))
        assert attributions[:, 0] == pytest.approx(expected, abs=0.05 if method == "permutation" else 1e-9)


@pytest.mark.parametrize("answered", [0.0, 1.0, -0.5, 3.0])
@pytest.mark.parametrize("method", ["exact", "permutation", "kernel"])
async def test_answers_that_have_no_log_odds_are_refused(lab: SimpleNamespace, answered: float, method: str) -> None:
    """With the value, wherever it comes: nothing is clipped to make it fit."""
    for whole in (
        lambda x: np.full((len(x), 1), answered),
        lambda x: np.where(x[:, :1] + x[:, 1:2] == 1, answered, 0.5),
    ):
        with pytest.raises(
            FailedPrecondition, match='link "logit" takes mean answers above 0 and below 1, got'
        ) as refused:
            await lab.explain(
                model(lab, whole), {"x": np.zeros((1, 3))}, {"x": np.ones((1, 3))}, link="logit", method=method
            )
        assert refused.value.reason == "OUTPUT_NOT_PROBABILITY"
        assert repr(answered) in refused.value.message


async def test_a_background_row_that_is_certain_does_not_matter_when_the_mean_is_not(lab: SimpleNamespace) -> None:
    """The mean of 0 and 0.5 has log-odds."""
    answer = await lab.explain(
        model(lab, lambda x: np.where(x[:, :1] > 0, 0.5, 0.0)),
        {"x": np.array([[0.0, 0, 0], [1.0, 0, 0]])},
        {"x": np.ones((1, 3))},
        link="logit",
    )

    assert answer.base_values[0, 0] == pytest.approx(np.log(0.25 / 0.75))


async def test_only_the_columns_that_are_explained_need_log_odds(lab: SimpleNamespace) -> None:
    """A column beside them may be anything."""
    two = lab.FunctionModel(
        lambda given: {"y": np.concatenate([probability(given["x"]), given["x"][:, :1] * 100], axis=1)},
        outputs=[("y", "FP64", (-1, 2))],
    )

    answer = await lab.explain(two, {"x": np.zeros((1, 3))}, {"x": np.ones((1, 3))}, link="logit", classes=0)

    assert answer.attributions[0, :, 0] == pytest.approx(WEIGHTS)
