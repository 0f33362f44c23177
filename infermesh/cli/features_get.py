"""`infermesh features get`: what is stored for entities, and what would be served."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from infermesh.cli.console import out
from infermesh.cli.failure import Failure
from infermesh.cli.features_options import (
    DEFAULT_PREFIX,
    DEFAULT_REDIS,
    DEFAULT_VIEWS,
    Prefix,
    RedisUrl,
    View,
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
    from services.transformer.peek import Peeked
    from services.transformer.views import FeatureView

__all__ = ["get"]

STYLES = {"PRESENT": "green", "NULL": "yellow", "STALE": "yellow", "MISSING": "red", "FOREIGN": "red"}


def get(
    entities: Annotated[
        list[str],
        typer.Argument(metavar="[VIEW] ENTITY…", help="Ids; several of one entity with : between them."),
    ],
    views: Views = DEFAULT_VIEWS,
    view: View = "",
    redis: RedisUrl = DEFAULT_REDIS,
    prefix: Prefix = DEFAULT_PREFIX,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each entity.")] = False,
) -> None:
    """Show what is stored for entities, and what would be served.

    The first word is the view if it is the name of one, more words follow, and --view is left out.
    """
    declared = read_views(views)
    if not view and len(entities) > 1 and entities[0] in declared.views:
        view, *entities = entities
    if not view and len(declared.views) != 1 and len(entities) > 1:
        raise Failure(
            f'"{entities[0]}" is none of the views of {views}: {", ".join(declared.views) or "(none)"}',
            hint="the view comes first, or say which by --view NAME",
        )
    if not view and len(declared.views) != 1:
        raise Failure(f"{views} has the views {', '.join(declared.views) or '(none)'}", hint="say which by --view NAME")
    name = named(view or next(iter(declared.views)), declared, views)
    config = redis_config(redis, prefix)
    now = time.time()
    try:
        found = run(_look(config, name, declared.views[name], entities, now))
    except ValueError as error:
        raise Failure(str(error)) from None
    for entity, peeked in zip(entities, found, strict=True):
        if as_json:
            typer.echo(json.dumps(_as_json(name, entity, peeked, now), default=_plain))
        else:
            _show(name, entity, peeked, now, groups=len(declared.views[name].groups))


async def _look(config: RedisConfig, name: str, view: FeatureView, entities: list[str], now: float) -> list[Peeked]:
    from services.transformer.peek import look

    async with store(config) as client:
        return await look(client, config.key_prefix, name, view, entities, now=now)


def _show(name: str, entity: str, found: Peeked, now: float, *, groups: int) -> None:
    since = "" if found.age_s is None else f", {age(found.age_s)} old, as of {_time(now - found.age_s)}"
    out.print(Text.assemble((f"{name} {entity}", "bold"), f": {found.status}{since}"), soft_wrap=True)
    if found.note:
        out.print(Text(found.note, "yellow"), soft_wrap=True)
    table = Table("feature", "datatype", "value", "status", "stored", box=box.SIMPLE_HEAD, pad_edge=False)
    if groups:
        table.add_column("age")
    for row in found.features:
        style = "green" if row.status == "present" else "yellow"
        cells: list[RenderableType] = [Text(row.name), row.datatype, Text(row.value), Text(row.status, style)]
        cells.append(Text(row.found, STYLES[row.found]))
        if groups:
            cells.append("–" if row.age_s is None else age(row.age_s))
        table.add_row(*cells)
    out.print(table)


def _as_json(name: str, entity: str, found: Peeked, now: float) -> dict[str, Any]:
    return {
        "view": name,
        "entity": entity,
        "status": found.status.upper(),
        "age_s": found.age_s,
        "event_time": None if found.age_s is None else _time(now - found.age_s),
        "note": found.note,
        "features": {
            row.name: {
                "datatype": row.datatype,
                "stored": row.stored,
                "status": row.found,
                "served": row.status,
                "age_s": row.age_s,
            }
            for row in found.features
        },
    }


def _time(at_s: float) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{at_s:.0f} s after 1970"


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
