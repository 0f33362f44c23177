"""From an original and rows to the bytes of a model that answers them the same, or to the reason why there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from rich.console import RenderableType
from rich.text import Text

import infermesh
from infermesh.cli.console import out
from infermesh.cli.failure import Failure
from infermesh.cli.model_import.attempt import Attempt, attempt
from infermesh.cli.model_import.compare import Tolerance
from infermesh.cli.model_import.graph import FEATURES, content_of, describe
from infermesh.cli.model_import.original import NotConvertible, Original
from infermesh.cli.model_import.report import check_table, reason, worst_row
from infermesh.cli.model_import.rows import Rows

__all__ = ["Datatypes", "converted"]

Datatypes = Literal["auto", "FP32", "FP64"]

_UNCHECKED = "the model takes missing values, and the rows have none: what becomes of them is not checked"


def converted(
    original: Original, file: Path, table: Rows, datatype: Datatypes, tolerance: Tolerance, *, columns: bool
) -> bytes:
    """The model that answers as the original does; what is found is printed. Raises Failure when there is none."""
    rows = table.for_model(original.names, original.width)
    columns = columns or bool(rows.texts)
    if columns:
        rows = _named(rows, original)
    out.print(Text(f"{file.name}: {original.kind}, {original.width} columns"), soft_wrap=True)
    unchecked = () if rows.has_missing or not original.takes_missing else (_UNCHECKED,)
    for note in (*original.notes, *rows.notes, *unchecked):
        out.print(Text.assemble(("note: ", "yellow"), note), soft_wrap=True)
    expected = original.answer(rows)
    wanted = original.datatypes if datatype == "auto" else (datatype,)
    if unknown := [d for d in wanted if d not in original.datatypes]:
        raise Failure(f"--datatype {unknown[0]}: {original.kind} takes {' or '.join(original.datatypes)}", status=2)
    failed: list[str] = []
    worst: RenderableType | None = None
    for choice in wanted:
        try:
            found = attempt(original, rows, expected, choice, tolerance, columns=columns)
        except NotConvertible as error:
            failed.append(f"{choice}: {error}")
            continue
        out.print(check_table(found, tolerance))
        if found.same:
            return _described(original, found, tolerance, columns=columns)
        worst = worst_row(found)
        failed.append(f"{choice}: {reason(found)}")
    if worst is not None:
        out.print(worst)
    raise Failure(f"{file.name} is not imported: {'; '.join(failed)}", hint="nothing was written")


def _described(original: Original, found: Attempt, tolerance: Tolerance, *, columns: bool) -> bytes:
    """The bytes of the model, which says where it came from and how it was checked."""
    properties = {
        "infermesh.import.format": original.format,
        "infermesh.import.kind": original.kind,
        "infermesh.import.libraries": json.dumps(dict(original.libraries)),
        "infermesh.import.check": json.dumps(
            {
                "rows": len(found.rows),
                "relative": tolerance.relative,
                "absolute": tolerance.absolute,
                "max_absolute": {
                    c.output: float(f"{c.max_absolute:.2g}") for c in found.comparisons if c.max_absolute is not None
                },
            }
        ),
    }
    if found.rows.names and not columns:
        properties[f"infermesh.columns.{FEATURES}"] = json.dumps(found.rows.names, ensure_ascii=False)
    if original.classes:
        properties["infermesh.classes"] = json.dumps(original.classes, ensure_ascii=False)
    describe(found.proto, properties, infermesh.__version__)
    return content_of(found.proto)


def _named(rows: Rows, original: Original) -> Rows:
    """Rows whose columns can be the names of inputs."""
    names = rows.names or tuple(f"column_{i + 1}" for i in range(len(rows.columns)))
    for name in names:
        if not name or name in original.outputs:
            raise Failure(
                f"column {name!r} can't be the name of an input: outputs are {', '.join(original.outputs)}", status=2
            )
    return Rows(names, rows.columns, rows.notes)
