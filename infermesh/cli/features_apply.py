"""`infermesh features apply` and `ls`: what a store is told about its views, and what it was told."""

from __future__ import annotations

import getpass
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from infermesh.cli.console import out
from infermesh.cli.failure import Failure
from infermesh.cli.features_options import (
    DEFAULT_PREFIX,
    DEFAULT_REDIS,
    Prefix,
    RedisUrl,
    age,
    read_views,
    redis_config,
    run,
    store,
)

if TYPE_CHECKING:
    from services.transformer.config import RedisConfig
    from services.transformer.views import FeatureFile
    from services.transformer.writing.changes import Change
    from services.transformer.writing.registry import Applied

__all__ = ["apply", "ls"]

STYLES = {"new": "green", "same": "bright_black", "changed": "cyan", "migration": "yellow", "breaking": "bold red"}
ROWS_LOOKED_AT = 100_000


def apply(
    place: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="File of views and services, or a folder of such.")],
    redis: RedisUrl = DEFAULT_REDIS,
    prefix: Prefix = DEFAULT_PREFIX,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what changes, and change nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Apply though stored rows can't be read any more.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take out of the registry what the file does not have.")
    ] = False,
) -> None:
    """Check views and services, show what changes against what was applied to the store before, and apply it.

    A change after which rows that are stored could not be read is refused, and the command ends with status 1.
    """
    file = _read(place)
    config = redis_config(redis, prefix)
    wanted = run(_apply(file, config, dry_run=dry_run, force=force, remove=remove))
    breaking = [change.name for change in wanted if change.kind == "breaking"]
    if breaking and not force:
        raise Failure(
            f"nothing was applied: {', '.join(breaking)} would leave stored rows unread",
            hint="name the old schema under `previous`, or say --force and load the rows anew",
        )
    real = [change for change in wanted if change.kind != "same"]
    out.print(f"{'would be applied' if dry_run else 'applied'}: {len(real)} of {len(wanted)} views and services")


def ls(redis: RedisUrl = DEFAULT_REDIS, prefix: Prefix = DEFAULT_PREFIX) -> None:
    """List the views that were applied to the store, with their schemas and about how many rows they have."""
    applied, rows, whole = run(_list(redis_config(redis, prefix)))
    if not applied:
        out.print("nothing was applied to this store")
        return
    columns = ("view", "features", "schema", "version", "rows", "applied", "by", "description")
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for each in table.columns[:-1]:
        each.no_wrap = True  # what is in the way of a narrow terminal is the description
    for column in (1, 3, 4):
        table.columns[column].justify = "right"
    for name, entry in sorted(applied.items()):
        kind, _, short = name.partition(":")
        if kind != "view":
            continue
        since = f"{age(max(0.0, time.time() - entry.at_s))} ago"
        count = f"{'' if whole else '~'}{rows.get(short, 0):,}"
        description = Text(str(entry.declared.get("description", "")))
        table.add_row(
            short, str(len(entry.columns)), entry.fingerprint, str(entry.version), count, since, entry.by, description
        )
    out.print(table)
    services = sorted(name.partition(":")[2] for name in applied if name.startswith("service:"))
    if services:
        out.print(Text(f"services: {', '.join(services)}"), soft_wrap=True)


def _read(place: Path) -> FeatureFile:
    """The views and services of a file, or of all files in a folder that hold nothing else. Raises ConfigError and Failure."""
    from services.transformer.views import FeatureFile

    if not place.is_dir():
        return read_views(place)
    files = [file for file in sorted([*place.glob("*.yaml"), *place.glob("*.yml")]) if _is_about_features(file)]
    if not files:
        raise Failure(f"{place}: no file of feature views in it")
    views: dict[str, Any] = {}
    services: dict[str, Any] = {}
    for file in files:
        declared = read_views(file)
        if twice := sorted({*(views.keys() & declared.views), *(services.keys() & declared.services)}):
            raise Failure(f'{file}: "{twice[0]}" stands in another file of the folder too')
        views |= declared.views
        services |= declared.services
    return FeatureFile(views=views, services=services)


def _is_about_features(file: Path) -> bool:
    import yaml

    try:
        read = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return True  # and the reader says what is wrong with it
    return isinstance(read, dict) and "views" in read and read.keys() <= {"views", "services"}


async def _apply(file: FeatureFile, config: RedisConfig, *, dry_run: bool, force: bool, remove: bool) -> list[Change]:
    from services.transformer.writing.changes import changes, entries
    from services.transformer.writing.registry import Registry, StaleRegistry

    async with store(config) as client:
        registry = Registry(client, config.key_prefix)
        try:
            before = await registry.read()
        except ValueError as error:
            raise Failure(str(error)) from None
        wanted = changes(file, before, remove=remove)
        for change in wanted:
            _show(change, before.get(change.name))
        if not dry_run and (force or all(change.kind != "breaking" for change in wanted)):
            try:
                await registry.write(before, entries(file, before, wanted, time.time(), _somebody()))
            except StaleRegistry as error:
                raise Failure(str(error)) from None
    return wanted


async def _list(config: RedisConfig) -> tuple[dict[str, Applied], dict[str, int], bool]:
    from services.transformer.keys import key_prefix
    from services.transformer.writing.registry import Registry
    from services.transformer.writing.survey import count_rows

    async with store(config) as client:
        try:
            applied = await Registry(client, config.key_prefix).read()
        except ValueError as error:
            raise Failure(str(error)) from None
        names = [name.partition(":")[2] for name in applied if name.startswith("view:")]
        prefixes = {name: key_prefix(config.key_prefix, name) for name in names}
        rows, whole = await count_rows(client, prefixes, sample=ROWS_LOOKED_AT) if names else ({}, True)
    return applied, rows, whole


def _show(change: Change, before: Applied | None) -> None:
    kind, _, name = change.name.partition(":")
    since = ""
    if before is not None:
        at = datetime.fromtimestamp(before.at_s, UTC).strftime("%Y-%m-%d %H:%M")
        since = f"  (applied {at} UTC by {before.by}{f', version {before.version}' if kind == 'view' else ''})"
    style = STYLES.get(change.kind, "yellow")
    out.print(
        Text.assemble((f"{change.kind:<10}", style), f"{kind} ", (name, "bold"), (since, "bright_black")),
        soft_wrap=True,
    )
    for line in change.lines:
        out.print(Text(f"          {line}"), soft_wrap=True)


def _somebody() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user without a name, as containers have
        return socket.gethostname()
