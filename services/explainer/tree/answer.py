"""What the graph of a model says about some rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.explainer.estimate import Floats
from services.explainer.graph import NotReadable

__all__ = ["Algorithm", "CoversFrom", "TreeAnswer", "check_size"]

MOST_VALUES = 2**26  # of one answer: 512 MiB

Algorithm = Literal["interventional", "path_dependent"]
CoversFrom = Literal["", "given", "graph", "background"]


def check_size(rows: int, players: int, columns: int) -> None:
    """Raise NotReadable for attributions that would not fit, before they take memory."""
    if rows * players * columns > MOST_VALUES:
        raise NotReadable(
            f"for {players} features and {columns} columns expected at most {MOST_VALUES // (players * columns)} rows, got {rows}"
        )


@dataclass(frozen=True)
class TreeAnswer:
    """Attributions of the margin: `base + attributions.sum(axis=1)` is `margin`, up to rounding.

    The columns K are those of the output that the graph stands for, each on the scale before the graph's link: of an output
    with link `logit` and two columns they are the log-odds of either class, the one the negative of the other.
    """

    attributions: Floats  # [rows, players, columns]
    base: Floats  # [columns]
    margin: Floats  # [rows, columns], in FP64 and computed apart from the attributions
    probability: Floats  # [rows, columns]: the margin through the link; what the model's output should be
    covers: CoversFrom = ""
    """Where the path-dependent method's covers came from; empty for others."""
