"""Calibrated scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression

from infermesh.errors import FailedPrecondition
from services.transformer.after.calibrate import curve_of, distribution
from services.transformer.after.declared import Isotonic, Platt

KNOTS = {"x": [0.125, 0.5, 0.875], "y": [0.0, 0.25, 1.0]}


def fitted(seed: int = 7) -> tuple[Any, Any]:
    """Scores, and whether it was so; more often for higher ones, but not as often as they say."""
    draw = np.random.default_rng(seed)
    scores = draw.uniform(0, 1, 400)
    return scores, draw.uniform(0, 1, 400) < scores**2


def test_an_isotonic_curve_is_scikit_learns() -> None:
    """Between its knots, at them, and past both ends."""
    scores, truth = fitted()
    oracle = IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1).fit(scores, truth)
    declared = Isotonic(x=oracle.X_thresholds_.tolist(), y=oracle.y_thresholds_.tolist())
    asked = np.concatenate([np.linspace(-1, 2, 1001), oracle.X_thresholds_])

    assert np.allclose(curve_of(declared)(asked), oracle.predict(asked), rtol=0, atol=1e-12)


def test_a_logistic_curve_is_scikit_learns() -> None:
    """The two parameters mean what they mean there."""
    scores, truth = fitted()
    oracle = _SigmoidCalibration().fit(scores, truth)
    asked = np.linspace(-3, 3, 501)

    found = curve_of(Platt(a=float(oracle.a_), b=float(oracle.b_)))(asked)

    assert np.allclose(found, oracle.predict(asked), rtol=0, atol=1e-12)


@given(st.floats(-50, 50).filter(bool), st.floats(-50, 50), st.lists(st.floats(-1e6, 1e6), max_size=8))
def test_a_logistic_curve_is_the_formula(a: float, b: float, scores: list[float]) -> None:
    """1 / (1 + exp(a·s + b)), one by one; far out it is 0 or 1, and nothing overflows."""

    def formula(score: float) -> float:
        power = a * score + b
        return 1 / (1 + math.exp(power)) if power < 700 else 0.0

    found = curve_of(Platt(a=a, b=b))(np.array(scores, np.float64))

    assert found.tolist() == pytest.approx([formula(score) for score in scores], rel=1e-12, abs=1e-300)


@given(
    st.dictionaries(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), st.floats(0, 1), min_size=1, max_size=9),
    st.lists(st.floats(allow_nan=False), max_size=12),
)
def test_an_isotonic_curve_rises_within_its_knots(knots: dict[float, float], scores: list[float]) -> None:
    """Whatever the knots: no probability leaves theirs, a higher score never has a lower one, and a knot has its own."""
    x, y = sorted(knots), sorted(knots.values())
    curve = curve_of(Isotonic(x=x, y=y))

    found = curve(np.array(sorted(scores)))

    assert (found >= y[0]).all()
    assert (found <= y[-1]).all()
    assert (np.diff(found) >= -1e-12).all()
    assert curve(np.array(x)).tolist() == pytest.approx(y, abs=1e-12)


@pytest.mark.parametrize("raw", [True, False])
async def test_of_two_columns_the_other_gives_way(answered: Any, raw: bool) -> None:
    """Rows stay distributions, in the datatype and under the name that they had."""
    scores = np.array([[0.875, 0.125], [0.5, 0.5], [0.125, 0.875]], np.float32)

    outputs = await answered({"p": scores}, {"calibrate": {"of": "p", "column": 1, "isotonic": KNOTS}}, raw=raw)

    assert outputs["p"].dtype == np.float32
    assert outputs["p"].tolist() == [[1.0, 0.0], [0.75, 0.25], [0.0, 1.0]]


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
async def test_a_score_alone_becomes_a_further_output(answered: Any, shape: tuple[int, ...]) -> None:
    """In its shape; the score stays."""
    score = np.array([0.0, 2.0]).reshape(shape)

    outputs = await answered({"s": score}, {"calibrate": {"of": "s", "platt": {"a": -1, "b": 0}, "as": "p"}})

    assert np.array_equal(outputs["s"], score)
    assert outputs["p"].shape == shape
    assert outputs["p"].ravel().tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])


@given(
    st.integers(3, 6).flatmap(
        lambda width: st.lists(st.lists(st.floats(0, 1), min_size=width, max_size=width), min_size=1, max_size=6)
    ),
    st.data(),
)
def test_of_more_columns_the_others_share_the_rest(rows: list[list[float]], data: st.DataObject) -> None:
    """Each row adds up to 1, p stands in the column, and the others keep their proportions; of zeros each has the same."""
    scores = np.array(rows)
    column = data.draw(st.integers(0, scores.shape[1] - 1))
    curve = curve_of(Platt(a=-2.0, b=0.5))

    made = distribution(scores, column, curve)

    for before, after in zip(rows, made.tolist(), strict=True):
        p = 1 / (1 + math.exp(-2.0 * before[column] + 0.5))
        total = sum(value for at, value in enumerate(before) if at != column)
        for at, value in enumerate(before):
            share = value / total if total else 1 / (len(before) - 1)
            assert after[at] == pytest.approx(p if at == column else (1 - p) * share, rel=1e-9, abs=1e-300)
        assert sum(after) == pytest.approx(1)


async def test_columns_that_can_not_give_way(answered: Any) -> None:
    """Logits of many classes are no shares of anything: FAILED_PRECONDITION, with the row."""
    logits = np.array([[0.1, 0.2, 0.7], [-1.0, 2.0, 3.0]])

    with pytest.raises(FailedPrecondition, match="row 1: expected numbers of 0 or more beside the calibrated one"):
        await answered({"p": logits}, {"calibrate": {"of": "p", "column": 2, "isotonic": KNOTS}})


async def test_a_nan_stays_one_and_is_refused_where_it_is_decided_upon(answered: Any) -> None:
    """Calibration makes no number of what is none, so that no decision is made of it either."""
    scores = np.array([[0.2, 0.8], [0.5, np.nan]], np.float32)
    step = {"calibrate": {"of": "p", "column": 1, "isotonic": KNOTS}}

    outputs = await answered({"p": scores}, step)

    assert np.isnan(outputs["p"]).tolist() == [[False, False], [True, True]]
    with pytest.raises(FailedPrecondition, match="row 1: NaN"):
        decide = {"threshold": {"of": "p", "column": 1, "at": [0.5], "decisions": ["no", "yes"]}}
        await answered({"p": scores}, step, decide)


async def test_bfloat16_is_rounded_to_the_nearest(answered: Any) -> None:
    """Its bits are widened, calibrated and rounded to bits again: 0.3 is 0x3E9A there."""
    half = np.array([[0x3F00]], np.uint16)

    outputs = await answered(
        {"s": half}, {"calibrate": {"of": "s", "isotonic": {"x": [0.5], "y": [0.3]}}}, bf16=frozenset({"s"})
    )

    assert outputs["s"].tolist() == [[0x3E9A]]
