"""`infermesh features load`: files into the store, with a bar, what was refused and why, and a way to go on after an end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from infermesh.cli.console import err, out
from infermesh.cli.failure import Failure
from infermesh.cli.features_options import (
    DEFAULT_PREFIX,
    DEFAULT_REDIS,
    DEFAULT_VIEWS,
    Prefix,
    RedisUrl,
    View,
    Views,
    applied_view,
    named,
    read_views,
    redis_config,
    run,
    seconds,
    store,
)

if TYPE_CHECKING:
    from services.transformer.config import RedisConfig
    from services.transformer.load import LoadSummary
    from services.transformer.views import FeatureFile
    from services.transformer.writing.checkpoint import Checkpoint, Checkpoints

__all__ = ["load"]

INTERRUPTED = 130  # as shells report a SIGINT


def load(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="CSV, Parquet, Arrow or Feather: a row an entity.")
    ],
    views: Views = DEFAULT_VIEWS,
    view: View = "",
    redis: RedisUrl = DEFAULT_REDIS,
    prefix: Prefix = DEFAULT_PREFIX,
    ttl: Annotated[
        str,
        typer.Option(metavar="DURATION", help="Rows go after this time, such as 30d; 0: never.  [default: the view's]"),
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier load of the same file ended.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row, and write nothing.")] = False,
    nan_is_null: Annotated[bool, typer.Option("--nan-is-null", help="Take NaN for no value, as pandas does.")] = False,
    retry_for: Annotated[
        str, typer.Option(metavar="DURATION", help="How long to try again while the store is away.")
    ] = "60s",
) -> None:
    """Load files into a view. An older row never takes the place of a newer one; loading twice is harmless.

    Rows are as of now, unless a column `event_time` says otherwise (RFC 3339, or seconds since 1970). An empty cell is null.
    What does not fit is left out and named, and the command ends with status 1; after Ctrl-C it ends with 130.
    """
    from services.transformer.load import BadTable, LoadSummary, NotWritten, view_of_header

    declared = read_views(views)
    loadable = {name: each for name, each in declared.views.items() if each.layout.kind == "packed"}
    ttl_s = seconds(ttl, "--ttl") if ttl else None
    patience_s = seconds(retry_for, "--retry-for", "60s")
    status = 0
    for file in files:
        summary, name = LoadSummary(), ""
        try:
            name = named(view, declared, views) if view else view_of_header(file, loadable)
            config = redis_config(redis, prefix)
            work = _Load(file, name, declared, config, summary, ttl_s, patience_s)
            earlier = run(work.run(resume=resume, dry_run=dry_run, nan_is_null=nan_is_null))
        except (BadTable, NotWritten, ValueError) as error:
            _report(name if summary.rows else "", summary, dry_run=dry_run)
            raise Failure(
                f"{file}: {error}" if not isinstance(error, BadTable) else str(error),
                hint=_how_to_go_on(summary, dry_run=dry_run),
            ) from None
        except KeyboardInterrupt:
            _report(name if summary.rows else "", summary, dry_run=dry_run)
            raise Failure("interrupted", hint=_how_to_go_on(summary, dry_run=dry_run), status=INTERRUPTED) from None
        _report(name, summary, dry_run=dry_run, earlier=earlier)
        if summary.refused or (earlier is not None and earlier.refused):
            status = 1
    if status:
        raise typer.Exit(status)


class _Load:
    """One file on its way into one view."""

    def __init__(
        self,
        file: Path,
        name: str,
        declared: FeatureFile,
        config: RedisConfig,
        summary: LoadSummary,
        ttl_s: float | None,
        patience_s: float,
    ) -> None:
        self.file = file
        self.name = name
        self.declared = declared
        self.view = declared.views[name]
        self.config = config
        self.summary = summary
        self.ttl_ms = None if ttl_s is None else round(1000 * ttl_s)
        self.patience_s = patience_s

    async def run(self, *, resume: bool, dry_run: bool, nan_is_null: bool) -> Checkpoint | None:
        """Load; returns what an earlier run had done, if this one went on from there."""
        from services.transformer.load import load_file
        from services.transformer.policy import micros
        from services.transformer.writer import FeatureWriter
        from services.transformer.writing.again import Again
        from services.transformer.writing.checkpoint import Checkpoint

        async with store(self.config) as client:
            writer = FeatureWriter(client, self.name, self.view, prefix=self.config.key_prefix, ttl_ms=self.ttl_ms)
            event_time_us = micros(time.time())
            if dry_run:
                with _bar(self.file, self.name) as bar:
                    await load_file(
                        self.file, writer, event_time_us=event_time_us, summary=self.summary, dry_run=True,
                        nan_is_null=nan_is_null, progress=bar.tell,
                    )  # fmt: skip
                return None
            await client.ping()  # at first a store that is not there is a mistake, and not worth waiting for
            await applied_view(client, self.config, self.declared, self.name)
            checkpoints = await self._checkpoints(client, writer.format.fingerprint)
            earlier = await checkpoints.read()
            if earlier is not None and not resume:
                err.print(
                    f"an earlier load of this file ended after {earlier.rows:,} rows; --resume would go on from there",
                    soft_wrap=True,
                )
                earlier = None
            if earlier is not None:
                event_time_us = earlier.event_time_us
            refused_before = earlier.refused if earlier else 0

            async def keep(summary: LoadSummary) -> None:
                rows = summary.skipped + summary.rows
                await checkpoints.keep(Checkpoint(rows, event_time_us, refused_before + summary.refused))

            with _bar(self.file, self.name) as bar:
                await load_file(
                    self.file,
                    writer,
                    event_time_us=event_time_us,
                    summary=self.summary,
                    skip=earlier.rows if earlier else 0,
                    nan_is_null=nan_is_null,
                    again=Again(self.patience_s, observe=bar.wait),
                    progress=bar.tell,
                    keep=keep,
                )
            await checkpoints.forget()
            return earlier

    async def _checkpoints(self, client: Any, fingerprint: int) -> Checkpoints:
        from services.transformer.load import BadTable
        from services.transformer.writing.checkpoint import Checkpoints, digest_of

        try:
            digest = await asyncio.to_thread(digest_of, self.file)
        except OSError as error:
            raise BadTable(f"{self.file}: can't be read: {error.strerror}") from None
        return Checkpoints(client, self.config.key_prefix, self.name, fingerprint, digest)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.fields['rows']:>11,} rows {task.fields['rate']:>9,.0f}/s", "cyan")


class _bar:  # noqa: N801  # a context, as functions are
    """A bar on standard error; nothing where that is no terminal."""

    def __init__(self, file: Path, view: str) -> None:
        self._title = f"{file.name} → {view}"
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(None),
            TextColumn("{task.percentage:>3.0f}%"),
            _Rate(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            expand=True,
            disable=not err.is_terminal,
        )
        self._task = self._progress.add_task(self._title, total=1.0, rows=0, rate=0.0)

    def tell(self, summary: LoadSummary) -> None:
        self._progress.update(
            self._task,
            description=self._title,
            completed=summary.share_read,
            rows=summary.skipped + summary.rows,
            rate=summary.rows_per_second,
        )

    def wait(self, why: str, pause_s: float) -> None:
        self._progress.update(self._task, description="the store is away, trying again")

    def __enter__(self) -> _bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _report(view: str, summary: LoadSummary, *, dry_run: bool, earlier: Checkpoint | None = None) -> None:
    if not summary.rows and not summary.skipped and not view:
        return
    verb = "fit; nothing was written," if dry_run else "written in"
    taken = f"{summary.seconds:.2f} s ({summary.rows_per_second:,.0f} rows/s)"
    out.print(f"{view}: {summary.written:,} of {summary.rows:,} rows {verb} {taken}")
    if summary.skipped:
        out.print(f"{view}: {summary.skipped:,} rows before them were dealt with by an earlier load")
    if earlier is not None and earlier.refused:
        out.print(f"{view}: {earlier.refused:,} of these were refused then")
    if summary.older:
        out.print(f"{view}: {summary.older:,} rows are older than what is stored, and were left out")
    if summary.ignored_columns:
        out.print(f"{view}: columns that are no feature of it: {', '.join(summary.ignored_columns)}")
    for refused in summary.refusals:
        err.print(
            Text.assemble(("refused: ", "bold red"), f"{summary.unit} {refused.line}: {refused.why}"), soft_wrap=True
        )
    if (more := summary.refused - len(summary.refusals)) > 0:
        err.print(f"… and {more:,} more {summary.unit}s")


def _how_to_go_on(summary: LoadSummary, *, dry_run: bool) -> str:
    done = summary.skipped + summary.rows
    if dry_run or not done:
        return ""
    return f"{done:,} rows are dealt with; the same command with --resume goes on from there"
