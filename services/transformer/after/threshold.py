"""A decision for each row, by thresholds."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import DATATYPES, Array
from services.transformer.after.answer import Answer, Words
from services.transformer.after.declared import Threshold
from services.transformer.after.numbers import FLOATS, as_doubles, from_doubles
from services.transformer.after.outputs import ANY, Outputs, OutputType
from services.transformer.after.score import Score
from services.transformer.after.step import Step
from services.transformer.transforms.types import INTEGER_BOUNDS, INTEGERS

__all__ = ["Decide", "reached"]

DATATYPES_TAKEN = (*FLOATS, *INTEGERS)


class Decide(Step):
    """A threshold is reached by what is equal to it or above. It is compared as the output's datatype has it: 0.7 is reached by a
    model that answers 0.7 in FP32, though that is a little less than 0.7 in FP64."""

    def __init__(self, declared: Threshold) -> None:
        self.reads, self.makes = (declared.of,), (declared.as_,)
        self._score = Score(declared)
        self.needs_classes = self._score.needs_classes
        self._at = np.array(declared.at, np.float64)
        self._words = Words(declared.decisions)
        self._as = declared.as_

    def follow(self, outputs: Outputs) -> None:
        datatype = self._score.follow(outputs, DATATYPES_TAKEN).datatype
        if datatype in DATATYPES_TAKEN:
            for low, high in pairwise(self._at.tolist()):
                if not _told_apart(low, high, datatype):
                    what = f"{low} and {high} are one number in {datatype}: between them nothing is decided"
                    outputs.fault("at", what)
        outputs.put("as", self._as, OutputType("BYTES", (ANY,)))

    def apply(self, answer: Answer) -> None:
        datatype, array, column = self._score.take(answer, DATATYPES_TAKEN)
        scores = array[:, column]
        if datatype in FLOATS:
            bad = np.isnan(as_doubles(datatype, scores))
            if bad.any():
                raise answer.refused(self._score.of, f"row {int(bad.argmax())}: NaN, of which no decision can be made")
        codes = reached(self._at, datatype, scores)
        answer.add(self._as, self._words.held(codes))
        answer.counted.append((self._words.names, codes))


def _told_apart(low: float, high: float, datatype: str) -> bool:
    """Whether some score of the datatype lies between two thresholds."""
    if datatype in INTEGERS:
        return math.ceil(low) != math.ceil(high)
    edges = as_doubles(datatype, from_doubles(datatype, np.array([low, high], np.float64)))
    return bool(edges[0] != edges[1])


def reached(at: NDArray[np.float64], datatype: str, scores: Array) -> NDArray[np.intp]:
    """How many of the rising thresholds each score reaches; no NaN."""
    if datatype in FLOATS:
        edges = as_doubles(datatype, from_doubles(datatype, at))
        return np.searchsorted(edges, as_doubles(datatype, scores), side="right")
    # Of integers, exactly: those of 64 bits are more than FP64 has, and reach a threshold when they reach the next integer.
    low, high = INTEGER_BOUNDS[datatype]
    ceilings = [math.ceil(each) for each in at.tolist()]
    below = sum(each <= low for each in ceilings)
    within = np.array([each for each in ceilings if low < each <= high], DATATYPES[datatype].dtype)
    codes: NDArray[np.intp] = np.searchsorted(within, scores, side="right") + below
    return codes
