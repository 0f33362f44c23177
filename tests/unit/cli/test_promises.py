"""What the tour holds a mesh to, with answers that are wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from infermesh.cli.explanation import Explanation
from infermesh.cli.failure import Failure
from infermesh.cli.promises import check_shadows, check_split, check_sum, is_chance
from infermesh.cli.split import Promise, Shadow, Variant

PROMISE = Promise((Variant("stable", "1", 90), Variant("canary", "2", 10)), (Shadow("candidate", "3", 0.5),))
EXPLANATION = Explanation(
    attributions=np.array([[[0.2, -0.2], [0.1, -0.1]]]),
    base_values=np.array([[0.1, 0.9]]),
    predictions=np.array([[0.4, 0.6]]),
    std_error=None,
    features=("amount", "hour"),
    outputs=("fraud", "genuine"),
)


@pytest.mark.parametrize("canary", [3, 20, 44])
def test_a_fair_draw_is_kept(canary):
    """Up to about five standard deviations (4.2 calls each) a split is as promised."""
    check_split(PROMISE, {"stable": 200 - canary, "canary": canary})


@pytest.mark.parametrize("canary", [0, 50, 100, 200])
def test_a_split_that_is_off_is_told(canary):
    """A canary that nobody meets, or too many, is no chance."""
    with pytest.raises(Failure, match=r"variant \w+ answered \d+ of 200 calls; its weight promises about \d+"):
        check_split(PROMISE, {"stable": 200 - canary, "canary": canary})


def test_nobody_else_may_answer():
    """A variant that the route does not have, and one without weight, may not answer one call."""
    with pytest.raises(Failure, match="1 calls were answered by variant stranger"):
        check_split(PROMISE, {"stable": 180, "canary": 19, "stranger": 1})
    idle = Promise((Variant("stable", "1", 1), Variant("idle", "2", 0)), ())
    check_split(idle, {"stable": 200})
    with pytest.raises(Failure, match="variant stable answered 199 of 200 calls"):
        check_split(idle, {"stable": 199, "idle": 1})


def test_the_tails_are_those_of_the_binomial_distribution():
    """Zero of 200 at a share of 0.1 (7e-10) is no chance though it is 4.7 standard deviations away; zero of 100 (3e-5) is."""
    assert not is_chance(0, 200, 0.1)
    assert is_chance(0, 100, 0.1)
    assert is_chance(0, 0, 0.5)
    assert is_chance(5_000, 10_000, 0.5)
    assert is_chance(5_245, 10_000, 0.5)
    assert not is_chance(5_255, 10_000, 0.5)


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ({}, "got 0 copies of 200 calls; its fraction promises about 100"),
        ({"mirrored": 30}, "got 30 copies of 200 calls"),
        ({"mirrored": 201}, "got 201 copies of 200 calls"),
        ({"failed": 90, "shed": 10}, "answered none of its 100 copies: 90 failed, 10 shed"),
    ],
)
def test_a_shadow_that_sees_or_answers_nothing_is_told(outcomes, told):
    """No copies, too few, more than there were calls, or all of them failed."""
    with pytest.raises(Failure, match=told):
        check_shadows(PROMISE, 200, {"candidate": outcomes})


def test_a_shadow_that_answers_is_kept():
    """Some copies may fail or be shed: that is what a candidate is tried for."""
    check_shadows(PROMISE, 200, {"candidate": {"mirrored": 97, "failed": 2, "shed": 1}})
    check_shadows(Promise((), (Shadow("off", "3", 0.0),)), 200, {"off": {}})


def test_an_explanation_has_to_add_up():
    """Base value plus attributions is the prediction for every row and output, or the explanation is told to be wrong."""
    check_sum(EXPLANATION)

    for wrong in (np.add(EXPLANATION.predictions, [0, 1e-5]), np.multiply(EXPLANATION.predictions, [1, np.nan])):
        with pytest.raises(Failure, match=r"the explanation of genuine: .* add up to 0\.6, and the prediction is"):
            check_sum(dataclasses.replace(EXPLANATION, predictions=wrong))
