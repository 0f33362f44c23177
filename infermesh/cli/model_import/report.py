"""What a person is shown of a check."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from infermesh.cli.model_import.attempt import Attempt
from infermesh.cli.model_import.compare import Comparison, Tolerance
from infermesh.tensors import Array

__all__ = ["check_table", "reason", "worst_row"]

MAX_SHOWN = 12  # columns of the worst row; more fill the screen and help nobody


def check_table(attempt: Attempt, tolerance: Tolerance) -> RenderableType:
    """One line for each output."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)  # fits 80 columns
    table.add_column("output", no_wrap=True)
    table.add_column("tensor", no_wrap=True)
    for heading in ("rows", "max |Δ|", "max rel", "labels\ndiffer"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    for c in attempt.comparisons:
        table.add_row(
            Text(c.output),
            Text(f"{c.datatype} {[-1, *c.shape[1:]]}"),
            f"{len(attempt.rows):,}",
            _number(c.max_absolute),
            _number(c.max_relative),
            "–" if c.labels_differ is None else f"{c.labels_differ:,}",
            _verdict(c),
        )
    inputs = f"{attempt.datatype} inputs" if not attempt.rows.texts else f"{attempt.datatype} and text inputs"
    title = Text.assemble(("check", "bold"), f"  {inputs}, |Δ| ≤ {tolerance}, labels equal")
    return Group(title, table)


def worst_row(attempt: Attempt) -> RenderableType:
    """The row that is furthest outside, with its inputs and both answers."""
    worst = _worst(attempt)
    row = worst.worst
    inputs = Table("column", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in list(enumerate(attempt.rows.columns))[:MAX_SHOWN]:
        name = attempt.rows.names[position] if attempt.rows.names else str(position + 1)
        value = column[row]
        inputs.add_row(Text(name), Text(repr(value) if isinstance(value, str) else f"{value:.17g}"))
    if (more := len(attempt.rows.columns) - MAX_SHOWN) > 0:
        inputs.add_row(Text(f"… and {more} more", "dim"), "")
    answers = Table("output", "original", "ONNX Runtime", box=box.SIMPLE_HEAD, pad_edge=False)
    for output, values in attempt.onnx.items():
        answers.add_row(Text(output), Text(_values(attempt.original[output][row])), Text(_values(values[row])))
    return Group(
        Text.assemble(("worst row", "bold"), f"  number {row + 1:,} of {len(attempt.rows):,}"), inputs, answers
    )


def reason(attempt: Attempt) -> str:
    """Why the model is refused, in one sentence."""
    total = len(attempt.rows)
    worst = _worst(attempt)
    if worst.labels_differ:
        return f"of {total:,} rows {worst.labels_differ:,} have another label in ONNX Runtime than in the original"
    if worst.missing_differ:
        return f"output {worst.output}: {worst.missing_differ:,} values are NaN or infinite in one answer and not in the other"
    return (
        f"output {worst.output}: of {total:,} rows {worst.outside:,} are outside the tolerance, "
        f"by up to {_number(worst.max_absolute)} ({_number(worst.max_relative)} relative)"
    )


def _verdict(comparison: Comparison) -> Text:
    if comparison.same:
        return Text("same", "green")
    missing = f", {comparison.missing_differ:,} NaN" if comparison.missing_differ else ""
    return Text(f"{comparison.outside:,} differ{missing}", "bold red")


def _worst(attempt: Attempt) -> Comparison:
    """The output that is told about: labels first, for they are what is acted on."""
    return max(attempt.comparisons, key=lambda c: (bool(c.labels_differ), c.missing_differ > 0, c.outside))


def _number(value: float | None) -> str:
    return "–" if value is None else "0" if value == 0 else f"{value:.1e}"


def _values(values: Array) -> str:
    flat = np.asarray(values).reshape(-1)
    texts = [f"{value:.9g}" if isinstance(value, float | np.floating) else str(value) for value in flat[:6].tolist()]
    return ", ".join(texts) + (", …" if flat.size > 6 else "")
