"""`infermesh features stats` and `delete`: what is stored of a view as a whole, and an end to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from infermesh.cli.bars import share_bar
from infermesh.cli.console import err, out
from infermesh.cli.failure import Failure
from infermesh.cli.features_options import (
    DEFAULT_PREFIX,
    DEFAULT_REDIS,
    DEFAULT_VIEWS,
    Prefix,
    RedisUrl,
    Views,
    age,
    named,
    read_views,
    redis_config,
    run,
    store,
)

if TYPE_CHECKING:
    from services.transformer.config import RedisConfig
    from services.transformer.views import FeatureView
    from services.transformer.writing.survey import Survey

__all__ = ["delete", "stats"]


def stats(
    view: Annotated[str, typer.Argument(metavar="VIEW", help="The view.")],
    views: Views = DEFAULT_VIEWS,
    redis: RedisUrl = DEFAULT_REDIS,
    prefix: Prefix = DEFAULT_PREFIX,
    sample: Annotated[
        int, typer.Option(min=1, metavar="KEYS", help="Keys of the store to look at, at most.")
    ] = 100_000,
    read: Annotated[int, typer.Option(min=1, metavar="ROWS", help="Rows to read of them, at most.")] = 10_000,
) -> None:
    """Show how many rows a view has, what they weigh, how old they are, and what is null in them."""
    declared = read_views(views)
    name = named(view, declared, views)
    _packed(name, declared.views[name])
    found = run(_survey(redis_config(redis, prefix), name, declared.views[name], sample, read))
    _show(name, found)


def delete(
    view: Annotated[str, typer.Argument(metavar="VIEW", help="The view.")],
    entities: Annotated[list[str] | None, typer.Argument(metavar="ENTITY…", help="Ids of the rows to delete.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete every row of the view.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    views: Views = DEFAULT_VIEWS,
    redis: RedisUrl = DEFAULT_REDIS,
    prefix: Prefix = DEFAULT_PREFIX,
) -> None:
    """Delete rows. Nothing remembers that they were there: a writer that is late, or a load, can bring an old row back."""
    declared = read_views(views)
    name = named(view, declared, views)
    _packed(name, declared.views[name])
    if bool(entities) is everything:
        raise Failure("expected entities or --all, not both" if everything else "expected entities, or --all", status=2)
    what = f"every row of view {name}" if everything else f"{len(set(entities or [])):,} rows of view {name}"
    if not yes and not typer.confirm(f"Delete {what} from {redis.rpartition('@')[2]}, prefix {prefix}?", err=True):
        raise Failure("nothing was deleted")
    try:
        gone = run(_delete(redis_config(redis, prefix), name, declared.views[name], entities or []))
    except ValueError as error:
        raise Failure(str(error)) from None
    asked = f" of {len(set(entities)):,}" if entities else ""
    out.print(f"{name}: {gone:,}{asked} rows deleted")


def _packed(name: str, view: FeatureView) -> None:
    if view.layout.kind != "packed":
        raise Failure(f"view {name}: its rows are of layout {view.layout.kind}, and others look after them")


async def _survey(config: RedisConfig, name: str, view: FeatureView, sample: int, read: int) -> Survey:
    from services.transformer.keys import key_prefix
    from services.transformer.row import RowFormat
    from services.transformer.writing.survey import survey

    async with store(config) as client:
        prefix = key_prefix(config.key_prefix, name)
        return await survey(client, prefix, RowFormat(view.columns), sample=sample, read=read, now=time.time())


async def _delete(config: RedisConfig, name: str, view: FeatureView, entities: list[str]) -> int:
    from services.transformer.keys import key_prefix
    from services.transformer.peek import entity_of
    from services.transformer.writing.survey import delete_all, delete_keys

    prefix = key_prefix(config.key_prefix, name)
    keys = [prefix + entity_of(view, entity) for entity in entities]
    async with store(config) as client:
        if keys:
            return await delete_keys(client, list(dict.fromkeys(keys)))
        with err.status(f"deleting {name}") as status:
            return await delete_all(client, prefix, lambda gone: status.update(f"deleting {name}: {gone:,} rows"))


def _show(name: str, found: Survey) -> None:
    count = f"{found.rows:,} rows" if found.whole else f"about {found.estimated_rows:,} rows"
    looked = f"{found.scanned:,} of {found.keys_in_store:,} keys of the store looked at, {found.read:,} rows read"
    out.print(Text.assemble((name, "bold"), f": {count}"), Text(f"({looked})", "bright_black"), soft_wrap=True)
    if not found.read:
        return
    memory = "" if found.memory_bytes is None else f", {found.memory_bytes:,.0f} bytes of memory with their keys"
    out.print(f"a row: {found.row_bytes:,.0f} bytes{memory}; {found.expiring:.0%} have a time to live")
    for group, (half, most, oldest) in found.ages_s.items():
        label = f"age of group {group}" if group else "age"
        out.print(f"{label}: p50 {age(half)}, p99 {age(most)}, oldest {age(oldest)}")
    for why, rows in sorted(found.foreign.items(), key=lambda each: -each[1])[:5]:
        out.print(Text.assemble(("foreign: ", "bold red"), f"{rows:,} rows: {why}"), soft_wrap=True)
    nulls = sorted(found.null_shares.items(), key=lambda each: -each[1])
    if not nulls:
        return
    if nulls[0][1] == 0:
        out.print("no feature is ever null")
        return
    table = Table("feature", "null", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for feature, share in nulls:
        if share:
            table.add_row(Text(feature), f"{share:.1%}", share_bar(share))
    out.print(table)
