"""What XGBoost's and LightGBM's own model files have in common: columns of numbers, and an answer that is the objective's."""

from __future__ import annotations

import numpy as np

from infermesh.cli.failure import Failure
from infermesh.cli.model_import.rows import Rows
from infermesh.tensors import Array

__all__ = ["by_class", "converter_said", "numbers"]


def numbers(rows: Rows, library: str) -> Array:
    """[rows, columns] in FP64. Raises Failure for a column of texts, with the first one."""
    for position in rows.texts:
        raise Failure(
            f"column {rows.name_of(position)}: {library} takes numbers, got {rows.columns[position][0]!r}",
            hint="texts are to be encoded as they were for the training",
            status=2,
        )
    return rows.matrix()


def by_class(probabilities: Array) -> dict[str, Array]:
    """Labels [rows] and probabilities [rows, K] of a classifier that answers [rows, K], or [rows] for the second of two."""
    if probabilities.ndim == 1:
        probabilities = np.stack([1 - probabilities, probabilities], axis=1)
    return {"label": probabilities.argmax(axis=1), "probabilities": probabilities}


def converter_said(error: Exception) -> str:
    """The words of a converter, in one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]
