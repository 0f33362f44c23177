"""`infermesh backgrounds`: make the rows that explanations compare with, from what was served or from a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from infermesh.cli.asking import Key, Timeout, asked
from infermesh.cli.console import err, out
from infermesh.cli.failure import Failure

if TYPE_CHECKING:
    from services.explainer.background import Background
    from services.explainer.signature import Signature

__all__ = ["app"]

SUMMARIES = ("none", "kmeans", "stratified")

app = typer.Typer(no_args_is_help=True, help="Make the backgrounds that explanations compare with.")


@app.callback()
def backgrounds() -> None:
    """Make the backgrounds that explanations compare with."""


@app.command("make", no_args_is_help=True)
def make(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Whose inputs the rows are.")],
    source: Annotated[
        Path,
        typer.Option(
            "--from",
            metavar="PATH",
            help="A payload log's folder, Parquet (a file, or a folder of them), CSV, or JSON.",
        ),
    ],
    file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write; - is standard output.")],
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=1, help="Rows of the background.")] = 100,
    from_rows: Annotated[
        int, typer.Option("--from-rows", metavar="N", min=1, help="Rows that are drawn before they are summed up.")
    ] = 10_000,
    summary: Annotated[
        str, typer.Option("--summary", metavar="HOW", help=f"How rows are chosen: {', '.join(SUMMARIES)}.")
    ] = "kmeans",
    by: Annotated[
        str,
        typer.Option(
            "--by", metavar="COLUMN", help="Of stratified: an input, input[i], a column, output.NAME, prediction."
        ),
    ] = "",
    column: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=COL,COL", help="The columns of an input, for a table. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of all draws.")] = 0,
    target: Annotated[
        str,
        typer.Option(
            "--target", metavar="HOST:PORT", help="A predictor that has the model, to ask what its inputs are."
        ),
    ] = "",
    key: Key = "",
    timeout: Timeout = 30.0,
) -> None:
    """Make a background in the form that the explainer reads: `<model>.json` in its folder is the model's default.

    [bold]Examples[/]

      infermesh backgrounds make iris --from /var/lib/infermesh/payloads --out backgrounds/iris.json

      infermesh backgrounds make credit-score --from served/ --summary stratified --by prediction --out credit-score.json

      infermesh backgrounds make credit-score --from customers.csv --target 127.0.0.1:8001 --out credit-score.json

    A table's columns are inputs by name: input.NAME where there are such, else NAME. With --target, columns named as the
    model's features will do, and the rows are checked against the model. The same seed makes the same file.
    """
    signature = _signature(model, target, key, timeout) if target else None
    made = _made(model, source, rows, from_rows, summary, by, column or [], seed, signature)
    text = _text(made)
    if str(file) == "-":
        print(text, end="")
    else:
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Failure(f"{file}: {error.strerror or error}") from None
    _show(made, str(file))


def _made(
    model: str,
    source: Path,
    rows: int,
    from_rows: int,
    summary: str,
    by: str,
    inputs: list[str],
    seed: int,
    signature: Signature | None,
) -> Background:
    from pydantic import ValidationError

    from services.explainer.background_file import BackgroundError
    from services.explainer.background_sets import make_background, source_of
    from services.explainer.config import BackgroundSet

    if not source.exists():
        raise Failure(f"{source}: no such file or folder", status=2)
    if source.suffix == ".csv" and signature is None:
        raise Failure(
            f"{source}: a CSV has no datatypes", hint="--target names a predictor to ask for the model's", status=2
        )
    named = {name: columns.split(",") for name, _, columns in (each.partition("=") for each in inputs)}
    settings: dict[str, Any] = {source_of(source): source, "inputs": named, "rows": rows, "from_rows": from_rows}
    try:
        declared = BackgroundSet(**settings, summary=summary, by=by, seed=seed)
    except ValidationError as error:
        faults = [
            ": ".join([*(f"--{part}" for part in each["loc"][:1]), each["msg"].removeprefix("Value error, ")])
            for each in error.errors()
        ]
        raise Failure("; ".join(faults), status=2) from None
    try:
        return make_background(model, "default", declared, signature)
    except BackgroundError as error:
        raise Failure(f"{error}") from None


def _signature(model: str, target: str, key: str, timeout_s: float) -> Signature:
    from services.explainer.signature import Signature

    with asked(target, key, timeout_s) as caller:
        return Signature.of(model, caller.metadata(model))


def _text(made: Background) -> str:
    from services.explainer.background_file import BackgroundError, written_background

    try:
        return written_background(made)
    except BackgroundError as error:
        raise Failure(f"{error}") from None


def _show(made: Background, place: str) -> None:
    """To standard error: standard output may be the file."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("input", "datatype", "shape"):
        table.add_column(title, overflow="fold")
    for name, array in made.arrays.items():
        table.add_row(Text(name), made.datatypes[name], str(list(array.shape)))
    err.print(table)
    largest = float(made.weights.max())
    weights = "of equal weight" if made.weights.min() == largest else f"the heaviest stands for {largest:.1%}"
    (err if place == "-" else out).print(
        f"{place}: {len(made)} rows from {made.source}, summary {made.summary}, {weights}", markup=False, soft_wrap=True
    )
