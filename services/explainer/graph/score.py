"""A value of the graph that is a sum of leaves or of weighted columns, or such a sum through a link."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from services.explainer.estimate import Floats
from services.explainer.graph.refusal import NotReadable
from services.explainer.graph.table import Table
from services.explainer.graph.trees import Trees

__all__ = ["Link", "Score", "Weights", "linked"]

MOST_SCORES = 2048  # what is done to them is a square matrix
Link = Literal["identity", "logit", "softmax"]


@dataclass(frozen=True)
class Weights:
    """A linear model: columns @ coefficients + intercept."""

    coefficients: Floats  # [columns, scores]
    intercept: Floats  # [scores]

    @property
    def scores(self) -> int:
        return len(self.intercept)


@dataclass(frozen=True)
class Score:
    """`link(scores @ mix + offset)`, the scores being those of the model for the columns of `table`."""

    model: Trees | Weights
    table: Table
    mix: Floats  # [scores, outputs]
    offset: Floats  # [outputs]
    link: Link = "identity"

    @classmethod
    def of(cls, model: Trees | Weights, table: Table) -> Score:
        """The scores as they are."""
        scores = len(model.base) if isinstance(model, Trees) else model.scores
        if scores > MOST_SCORES:
            raise NotReadable(f"expected a model of at most {MOST_SCORES} scores, it has {scores}")
        return cls(model, table, np.eye(scores), np.zeros(scores))

    def of_two_classes(self, link: Link, ones_complement: bool = False) -> Score:
        """The single score for the second of two classes; the first has its negative, or 1 less it."""
        return replace(
            self, mix=np.array([[-1.0, 1.0]]), offset=np.array([1.0 if ones_complement else 0.0, 0.0]), link=link
        )

    def through(self, link: Link) -> Score:
        return replace(self, link=link)

    def sums_to_one(self) -> bool:
        """Whether the outputs are shares of 1, whatever the row."""
        if self.link == "softmax":
            return True
        if self.link == "logit":
            return (
                self.mix.shape[1] == 2
                and np.array_equal(self.mix[:, 0], -self.mix[:, 1])
                and self.offset[0] == -self.offset[1]
            )
        if not isinstance(self.model, Trees):
            return False
        values = self.model.values @ self.mix
        total, leaf = values.sum(axis=1), self.model.is_leaf
        return bool(
            (values >= 0).all()
            and np.allclose(total[leaf] * self.model.trees + self.offset.sum() + (self.model.base @ self.mix).sum(), 1)
        )


def linked(link: Link, margin: Floats) -> Floats:
    """What the output is, from the scale before the link."""
    if link == "identity":
        return margin
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and 1 / inf is right
        if link == "logit":
            probability: Floats = 1 / (1 + np.exp(-margin))
        else:
            shares = np.exp(margin - margin.max(axis=1, keepdims=True))
            probability = shares / shares.sum(axis=1, keepdims=True)
    return probability
