"""One conversion and its check, and the choice among those that can be tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from infermesh.cli.model_import.compare import Comparison, Tolerance, compare
from infermesh.cli.model_import.graph import content_of, finish, per_column, second_class
from infermesh.cli.model_import.needs import library
from infermesh.cli.model_import.original import Datatype, NotConvertible, Original
from infermesh.cli.model_import.rows import Rows
from infermesh.cli.model_import.run import run
from infermesh.tensors import Array

__all__ = ["Attempt", "attempt"]


@dataclass(frozen=True)
class Attempt:
    """A converted model, and how its answers to the rows compare with the original's."""

    datatype: Datatype
    proto: Any
    rows: Rows
    original: dict[str, Array]
    onnx: dict[str, Array]
    comparisons: list[Comparison]

    @property
    def same(self) -> bool:
        return all(comparison.same for comparison in self.comparisons)


def attempt(
    original: Original,
    rows: Rows,
    expected: dict[str, Array],
    datatype: Datatype,
    tolerance: Tolerance,
    *,
    columns: bool = False,
) -> Attempt:
    """Convert with inputs of a datatype, and compare with the `expected` answers to all rows. Raises NotConvertible.

    With `columns`, or where some are texts, there is an input for each column, which `rows` must name.
    """
    proto = original.convert(rows, datatype)
    try:
        if columns and not rows.texts:
            per_column(proto, rows.names)
        finish(proto, original.outputs, rows)
        _one_score(proto, rows, expected)
        content = content_of(proto)
        library("onnx").checker.check_model(content)
        answers = run(content, rows)
        comparisons = compare(expected, answers, tolerance)
        _alone(run(content, rows.first(1)), answers, tolerance)
    except (ValueError, library("onnx").checker.ValidationError) as error:
        raise NotConvertible(str(error)) from error
    return Attempt(datatype, proto, rows, expected, answers, comparisons)


def _one_score(proto: Any, rows: Rows, expected: dict[str, Array]) -> None:
    """Of two classes scikit-learn answers the second one's score alone, so that is what is served."""
    scores = expected.get("scores")
    if scores is None or scores.ndim != 1:
        return
    both = run(content_of(proto), rows)["scores"].astype(np.float64)
    if both.ndim == 2 and both.shape[1] == 2:
        off = np.abs(both - scores.astype(np.float64)[:, None]).sum(axis=0)
        second_class(proto, "scores", int(off.argmin()))


def _alone(first: dict[str, Array], answers: dict[str, Array], tolerance: Tolerance) -> None:
    """A row must be answered alone as it is among others, or a batch would change what callers get."""
    for name, values in answers.items():
        same = len(first[name]) == 1 and (
            np.array_equal(first[name], values[:1])
            if values.dtype.kind not in "f"
            else np.allclose(first[name], values[:1], tolerance.relative, tolerance.absolute, equal_nan=True)
        )
        if not same:
            raise NotConvertible(
                f"output {name}: the first row gets another answer alone than it gets among the others"
            )
