"""The command: load, convert, check, and only then write."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from infermesh.cli.asking import DEFAULT_TARGET, Key, Target, Timeout, asked
from infermesh.cli.console import out
from infermesh.cli.failure import Failure
from infermesh.cli.model_import.compare import DEFAULT_TOLERANCE, Tolerance
from infermesh.cli.model_import.converted import Datatypes, converted
from infermesh.cli.model_import.detect import Format, format_of
from infermesh.cli.model_import.lightgbm_file import load_lightgbm
from infermesh.cli.model_import.onnx_file import check_onnx
from infermesh.cli.model_import.original import Original
from infermesh.cli.model_import.place import MODEL_FILE, check_place, write_version
from infermesh.cli.model_import.rows_file import read_rows
from infermesh.cli.model_import.sklearn_file import load_pickle, load_skops
from infermesh.cli.model_import.xgboost_file import load_xgboost

__all__ = ["import_model"]


def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="joblib, pickle, skops, XGBoost, LightGBM or ONNX.")],
    name: Annotated[str, typer.Option("--name", metavar="MODEL", help="What the model is to be called.")],
    repository: Annotated[
        str, typer.Option("--repository", metavar="FOLDER", help="The model repository to write to.")
    ],
    version: Annotated[
        int | None, typer.Option("--version", metavar="N", help="The version; left out: the next one.", min=0)
    ] = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", metavar="FILE", help="Real rows for the check: CSV, JSON or .npy.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="COLUMN", help="A column of texts that look like numbers.")
    ] = None,
    columns: Annotated[
        bool, typer.Option("--columns", help="One input for each column, instead of one with all of them.")
    ] = False,
    datatype: Annotated[
        Datatypes,
        typer.Option("--datatype", help="Of the inputs; auto: FP32, or FP64 where only that answers the same."),
    ] = "auto",
    tolerance: Annotated[
        str, typer.Option("--tolerance", metavar="REL/ABS", help="How far a number may be off; a label never may.")
    ] = f"{DEFAULT_TOLERANCE.relative:g}/{DEFAULT_TOLERANCE.absolute:g}",
    file_format: Annotated[
        Literal["auto", "sklearn", "skops", "xgboost", "lightgbm", "onnx"],
        typer.Option("--format", help="What the file is; auto: by its content."),
    ] = "auto",
    trust: Annotated[bool, typer.Option("--trust", help="Read a pickle, which can run any code.")] = False,
    trust_type: Annotated[
        list[str] | None, typer.Option("--trust-type", metavar="TYPE", help="A type of a skops file that is harmless.")
    ] = None,
    best_iteration: Annotated[
        bool, typer.Option("--best-iteration", help="XGBoost boosters that stopped early: the trees up to the best.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the version if it exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and write nothing.")] = False,
    load: Annotated[bool, typer.Option("--load", help="Load it on the server at --target afterwards.")] = False,
    target: Target = DEFAULT_TARGET,
    key: Key = "",
    timeout: Timeout = 300.0,
) -> None:
    """Import a model of scikit-learn, XGBoost or LightGBM as ONNX, if both answer the same to real rows.

    The original library and ONNX Runtime answer every row of --rows. Where they differ by more than the tolerance, or in one
    label, the import is refused and nothing is written. An ONNX file is checked and copied; its --rows are optional.
    """
    allowed = _tolerance(tolerance)
    root = check_place(repository, name, version, force=force)
    kind: Format = format_of(file) if file_format == "auto" else _readable(file, file_format)
    table = None if rows is None else read_rows(rows, text or ())
    if kind == "onnx":
        files = check_onnx(file, table)
        out.print(f"{file.name}: ONNX, copied as it is" + (f"; it answers {len(table):,} rows" if table else ""))
    else:
        if table is None:
            raise Failure(
                "--rows is missing: the model is only imported when ONNX Runtime answers real rows as it does",
                hint="a file of rows like those that it will be asked: CSV, JSON or .npy",
                status=2,
            )
        original = _load(kind, file, trust=trust, trust_type=trust_type or [], best_iteration=best_iteration)
        files = {MODEL_FILE: converted(original, file, table, datatype, allowed, columns=columns)}
    if dry_run:
        out.print("dry run: nothing was written")
        return
    folder = write_version(root, name, version, files, force=force)
    out.print(
        Text.assemble(("imported ", "bold green"), f"{name} version {folder.name}: {folder / MODEL_FILE}"),
        soft_wrap=True,
    )
    if load:
        with asked(target, key, timeout) as caller:
            caller.load(name)
        out.print(f"{name} is loaded")
    else:
        out.print(f"next: infermesh models load {name}")


def _load(kind: Format, file: Path, *, trust: bool, trust_type: list[str], best_iteration: bool) -> Original:
    if kind == "sklearn":
        return load_pickle(file, trusted=trust)
    if kind == "skops":
        return load_skops(file, trust_type)
    if kind == "xgboost":
        return load_xgboost(file, best_iteration=best_iteration)
    return load_lightgbm(file)


def _readable(file: Path, file_format: Format) -> Format:
    if not file.is_file():
        raise Failure(f"{file}: there is no such file", status=2)
    return file_format


def _tolerance(text: str) -> Tolerance:
    try:
        relative, absolute = (float(part) for part in text.split("/"))
    except ValueError:
        relative = absolute = math.nan
    if not (0 <= relative < 1 and 0 <= absolute < math.inf):
        raise Failure(f"--tolerance {text}: expected REL/ABS, such as 1e-5/1e-6", status=2)
    return Tolerance(relative, absolute)
