"""`infermesh features log`: Parquet files of what models were served, for training."""

from __future__ import annotations

import importlib.util
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from infermesh.cli.console import err, out
from infermesh.cli.failure import Failure

if TYPE_CHECKING:
    from services.transformer.served.parts import Chosen, LogSummary

__all__ = ["log"]

SUFFIX = ".parquet"
MAX_PLACES = 20  # of lines without an end that are shown


def log(
    places: Annotated[
        list[Path], typer.Argument(metavar="FOLDER|FILE…", help="The log: a transformer's served_log.folder.")
    ],
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER|FILE.parquet",
            help="Where to write: a folder, which grows by what is new, or a file.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="Of this model alone.")] = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="From then on, such as 2026-01-31 or 2026-01-31T12:00Z.")
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Up to then.")] = "",
    by_day: Annotated[bool, typer.Option("--by-day", help="A folder for each day, date=2026-01-31, in UTC.")] = False,
    follow: Annotated[bool, typer.Option(help="Go on with what comes, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="How often, with --follow.")] = 60.0,
    schema: Annotated[
        bool, typer.Option("--schema", help="Show the columns of each model, and write nothing.")
    ] = False,
) -> None:
    """Write what models were served as Parquet: entity, features, statuses, event times, schemas and the model's inputs.

    A folder gets what no earlier run has written to it, so the command may run as often as you like; a file is made anew. A row
    of the output is a row of a request. Lines that can't be read, as a process that was killed leaves one, are passed over and
    told.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise Failure("Parquet files need pyarrow", hint="pip install 'infermesh[parquet]'")
    from services.transformer.served.parts import Chosen

    if schema is (target is not None):
        raise Failure("expected --out or --schema" + (", not both" if schema else ""), status=2)
    chosen = Chosen(model, _time(since, "--since"), _time(until, "--until"))
    if target is None:
        _show_columns(places, chosen)
        return
    single = target.suffix == SUFFIX
    if single and (follow or by_day):
        raise Failure(f"{target}: a single file is made anew each time", hint="--follow and --by-day take a folder")
    pause = threading.Event()
    try:
        _tell(_write(places, target, chosen, by_day=by_day), target)
        while follow and not pause.wait(every):
            summary = _write(places, target, chosen, by_day=by_day)
            if summary.rows or summary.damage.lines:
                _tell(summary, target)
    except KeyboardInterrupt:
        if not follow:
            raise


def _write(places: list[Path], target: Path, chosen: Chosen, *, by_day: bool) -> LogSummary:
    from services.transformer.served.parts import OtherTypes, write_file, write_parts
    from services.transformer.served.records import files_of

    try:
        files = files_of(places)
        with _Bar(sum(file.stat().st_size for file in files)) as bar:
            if target.suffix == SUFFIX:
                return write_file(files, target, chosen, progress=bar.tell)
            return write_parts(files, target, chosen, by_day=by_day, progress=bar.tell)
    except OtherTypes as error:
        raise Failure(str(error)) from None
    except (OSError, ValueError) as error:
        raise Failure(str(error)) from None


def _show_columns(places: list[Path], chosen: Chosen) -> None:
    from services.transformer.served.parts import columns_of
    from services.transformer.served.records import files_of

    try:
        found, summary = columns_of(files_of(places), chosen)
    except OSError as error:
        raise Failure(str(error)) from None
    for model, schemas in sorted(found.items()):
        for number, columns in enumerate(schemas):
            later = f", as they became ({number + 1} of {len(schemas)})" if number else ""
            table = Table("column", "type", box=box.SIMPLE_HEAD, pad_edge=False)
            for each in columns:
                table.add_row(Text(each.name), Text(str(each.type)))
            out.print(Text.assemble((model, "bold"), f": {len(columns)} columns{later}"), table)
    if not found:
        out.print("no records were chosen")
    _warn(summary)


class _Bar:
    """How much of the log is read, on a terminal."""

    def __init__(self, size_bytes: int) -> None:
        columns = (
            TextColumn("reading the log"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]} rows"),
        )
        self._progress = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._task = self._progress.add_task("", total=max(size_bytes, 1), rows=0)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, summary: LogSummary) -> None:
        self._progress.update(self._task, completed=summary.read_bytes, rows=f"{sum(summary.rows.values()):,}")


def _tell(summary: LogSummary, target: Path) -> None:
    for model, rows in sorted(summary.rows.items()):
        requests = summary.requests[model]
        out.print(Text.assemble((model, "bold"), f": {rows:,} row{_s(rows)} of {requests:,} request{_s(requests)}"))
    if not summary.rows:
        out.print(Text("nothing new" if target.suffix != SUFFIX else "no rows were chosen"))
    files = len(summary.files)
    if files:
        out.print(
            Text(f"  {files} file{_s(files)} in {target}" if target.suffix != SUFFIX else f"  {target}", "bright_black")
        )
    _warn(summary)


def _warn(summary: LogSummary) -> None:
    """Tell of lines that could not be read, on standard error."""
    if summary.damage.lines:
        lines = summary.damage.lines
        err.print(
            Text(f"{lines} line{_s(lines)} could not be read and {'are' if lines > 1 else 'is'} passed over:", "yellow")
        )
        for place in summary.damage.places:
            err.print(Text(f"  {place}", "yellow"))
    if endless := summary.damage.endless:
        count = len(endless)
        err.print(
            Text(f"{count} line{_s(count)} ha{'s' if count == 1 else 've'} no end and may still be written:", "yellow")
        )
        for place in endless[:MAX_PLACES]:
            err.print(Text(f"  {place}", "yellow"))


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _time(text: str, option: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Failure(
            f"{option}: expected a time, got {text!r}", hint="such as 2026-01-31 or 2026-01-31T12:00Z"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
