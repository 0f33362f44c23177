"""`infermesh features`: fill the feature store, and look into it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from infermesh.cli.console import err, out
from infermesh.cli.failure import Failure
from infermesh.config import Duration, parse

if TYPE_CHECKING:
    from services.transformer.load import LoadSummary
    from services.transformer.views import FeatureFile, FeatureView

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Fill the feature store, and look into it.")

DEFAULT_VIEWS = Path("samples/config/features.yaml")
DEFAULT_REDIS = "redis://127.0.0.1:6379/0"
DEFAULT_PREFIX = "infermesh"

T = TypeVar("T")

Views = Annotated[Path, typer.Option(metavar="FILE", help="File of feature views.")]
View = Annotated[str, typer.Option(metavar="NAME", help="The view; may be left out where only one fits.")]
RedisUrl = Annotated[
    str, typer.Option("--redis", metavar="URL", help="The feature store.", envvar="INFERMESH_REDIS_URL")
]
Prefix = Annotated[str, typer.Option(metavar="TEXT", help="What every key begins with.")]


@app.command("load", no_args_is_help=True)
def load(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV: a header, then an entity a line.")],
    views: Views = DEFAULT_VIEWS,
    view: View = "",
    redis: RedisUrl = DEFAULT_REDIS,
    prefix: Prefix = DEFAULT_PREFIX,
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="Rows go after this time, such as 30d; 0: never.")] = "0",
) -> None:
    """Load a CSV file into a view. An older row never takes the place of a newer one; loading twice is harmless.

    Rows are as of now, unless a column `event_time` says otherwise (RFC 3339, or seconds since 1970). An empty cell is null.
    """
    from services.transformer.load import BadTable, view_of_header

    declared = _views(views)
    try:
        name = _named(view, declared, views) if view else view_of_header(file, declared.views)
        summary = _run(_load(file, name, declared.views[name], redis, prefix, _milliseconds(ttl)), redis)
    except BadTable as error:
        raise Failure(str(error)) from None
    _report(name, summary)
    if summary.refused:
        raise typer.Exit(1)


@app.command("get", no_args_is_help=True)
def get(
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="The entity's id.")],
    views: Views = DEFAULT_VIEWS,
    view: View = "",
    redis: RedisUrl = DEFAULT_REDIS,
    prefix: Prefix = DEFAULT_PREFIX,
) -> None:
    """Show what is stored for an entity, and what would be served."""
    from services.transformer.peek import peek

    declared = _views(views)
    if not view and len(declared.views) != 1:
        raise Failure(f"{views} has the views {', '.join(declared.views) or '(none)'}", hint="say which by --view NAME")
    name = _named(view or next(iter(declared.views)), declared, views)
    config = _redis(redis, prefix)
    try:
        found = _run(peek(config, name, declared.views[name], entity, now=time.time()), redis)
    except ValueError as error:
        raise Failure(str(error)) from None
    table = Table("feature", "datatype", "value", "status", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in found.features:
        style = "green" if row.status == "present" else "yellow"
        table.add_row(Text(row.name), row.datatype, Text(row.value), Text(row.status, style))
    age = "" if found.age_s is None else f", {_age(found.age_s)} old"
    out.print(Text.assemble((f"{name} {entity}", "bold"), f": {found.status}{age}"))
    if found.note:
        out.print(Text(found.note, "yellow"))
    out.print(table)


def _views(file: Path) -> FeatureFile:
    from services.transformer.views import FeatureFile

    return parse(FeatureFile, file)


def _named(view: str, declared: FeatureFile, file: Path) -> str:
    if view not in declared.views:
        raise Failure(f'{file} has no view "{view}"', hint=f"there are {', '.join(declared.views) or 'none'}")
    return view


def _redis(url: str, prefix: str) -> Any:
    from services.transformer.config import RedisConfig

    try:
        return RedisConfig(url=url, key_prefix=prefix)
    except ValidationError as error:
        faults = "; ".join(
            f"{fault['loc'][0]}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors()
        )
        raise Failure(f"the feature store: {faults}", hint="such as --redis redis://127.0.0.1:6379/0") from None


async def _load(file: Path, name: str, view: FeatureView, redis: str, prefix: str, ttl_ms: int) -> LoadSummary:
    from services.transformer.administration import administration
    from services.transformer.load import load_csv
    from services.transformer.policy import micros
    from services.transformer.writer import FeatureWriter

    client = administration(_redis(redis, prefix))
    try:
        writer = FeatureWriter(client, name, view, prefix=prefix, ttl_ms=ttl_ms)
        with err.status(f"loading {file.name} into {name}") as status:
            return await load_csv(
                file,
                writer,
                event_time_us=micros(time.time()),
                progress=lambda rows: status.update(f"loading {file.name} into {name}: {rows:,} rows"),
            )
    finally:
        await client.aclose()


def _run(work: Coroutine[Any, Any, T], redis: str) -> T:
    from redis.exceptions import RedisError

    try:
        return asyncio.run(work)
    except (RedisError, OSError) as error:
        raise Failure(f"the feature store does not answer as it should: {error}", hint="see --redis URL") from None


def _report(view: str, summary: LoadSummary) -> None:
    speed = f"{summary.rows_per_second:,.0f} rows/s"
    out.print(f"{view}: {summary.written:,} of {summary.rows:,} rows written in {summary.seconds:.2f} s ({speed})")
    if summary.older:
        out.print(f"{view}: {summary.older:,} rows are older than what is stored, and were left out")
    if summary.ignored_columns:
        out.print(f"{view}: columns that are no feature of it: {', '.join(summary.ignored_columns)}")
    for refused in summary.refusals:
        err.print(Text.assemble(("refused: ", "bold red"), f"line {refused.line}: {refused.why}"), soft_wrap=True)
    if (more := summary.refused - len(summary.refusals)) > 0:
        err.print(f"… and {more:,} more lines")


def _milliseconds(text: str) -> int:
    try:
        return round(TypeAdapter(Duration).validate_python(text) * 1000)
    except ValidationError:
        raise Failure(f"--ttl: expected a duration with its unit, got {text!r}", hint='such as "30d", or 0') from None


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
