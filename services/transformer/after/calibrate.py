"""Scores made probabilities by curves that were fitted elsewhere: Platt's logistic one, or an isotonic one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from services.transformer.after.answer import Answer, Held
from services.transformer.after.declared import Calibrate, Isotonic, Platt
from services.transformer.after.numbers import FLOATS, as_doubles, from_doubles
from services.transformer.after.outputs import Outputs, OutputType
from services.transformer.after.score import Score
from services.transformer.after.step import Step

__all__ = ["CalibrateScore", "curve_of", "distribution"]

Doubles = NDArray[np.float64]


class CalibrateScore(Step):
    """Computed in FP64 and rounded once, to the output's datatype. The other columns of the row give way: see `distribution`."""

    needs_classes: bool

    def __init__(self, declared: Calibrate) -> None:
        self._score = Score(declared)
        self.needs_classes = self._score.needs_classes
        self._of, self._as = declared.of, declared.as_ or declared.of
        self.reads, self.makes = (self._of,), (self._as,)
        curve = declared.platt or declared.isotonic
        assert curve is not None
        self._curve = curve_of(curve)

    def follow(self, outputs: Outputs) -> None:
        found = self._score.follow(outputs, FLOATS)
        outputs.put("as", self._as, OutputType(found.datatype, found.shape), instead=self._of)

    def apply(self, answer: Answer) -> None:
        datatype, array, column = self._score.take(answer, FLOATS)
        shape = answer.take(self._of)[1].shape
        scores = as_doubles(datatype, array)
        if scores.shape[1] > 2 and (row := _no_shares(scores, column)) is not None:
            raise answer.refused(self._of, f"row {row}: expected numbers of 0 or more beside the calibrated one")
        doubles = distribution(scores, column, self._curve)
        held = Held(datatype, from_doubles(datatype, doubles).reshape(shape))
        if self._as == self._of:
            answer.put(self._of, held)
        else:
            answer.add(self._as, held)


def curve_of(declared: Platt | Isotonic) -> Callable[[Doubles], Doubles]:
    """From scores to probabilities, 0 to 1; NaN to NaN."""
    if isinstance(declared, Platt):
        a, b = declared.a, declared.b

        def logistic(scores: Doubles) -> Doubles:
            with np.errstate(over="ignore"):  # exp past FP64 is infinite, and the probability 0
                probabilities: Doubles = 1.0 / (1.0 + np.exp(a * scores + b))
            return probabilities

        return logistic
    x, y = np.array(declared.x, np.float64), np.array(declared.y, np.float64)
    return lambda scores: np.clip(np.interp(scores, x, y), y[0], y[-1])  # which a rounding error may leave


def distribution(scores: Doubles, column: int, curve: Callable[[Doubles], Doubles]) -> Doubles:
    """(N, C) with p, the probability of that column's score, in the column.

    Of two columns the other is 1 - p. Of more, the others share 1 - p in proportion to what they were, and equally in a row
    where they are all 0. One column alone is p.
    """
    made = scores.copy()
    probability = curve(scores[:, column])
    width = scores.shape[1]
    if width == 2:
        made[:, 1 - column] = 1.0 - probability
    elif width > 2:
        made[:, column] = 0.0
        total = made.sum(axis=1, keepdims=True)
        shares = np.divide(made, total, out=np.full_like(made, 1.0 / (width - 1)), where=total != 0.0)
        made = shares * (1.0 - probability)[:, np.newaxis]
    made[:, column] = probability
    return made


def _no_shares(scores: Doubles, column: int) -> int | None:
    """The first row in which the other columns can't be shares of anything."""
    others = np.delete(scores, column, axis=1)
    with np.errstate(over="ignore"):
        good = (others >= 0).all(axis=1) & np.isfinite(others.sum(axis=1))  # of NaN both are false
    return None if good.all() else int(good.argmin())
