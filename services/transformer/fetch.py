"""Fetching the rows of a request where not all of them are packed: in one round trip as well, each key once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from infermesh.deadline import Deadline
from services.transformer.entities import Entities
from services.transformer.store import FeatureStore
from services.transformer.use import Use

__all__ = ["fetched"]


async def fetched(
    uses: Sequence[Use], entities: Entities, store: FeatureStore, deadline: Deadline
) -> list[bytes | None]:
    """What the keys of all rows hold, N of the first view, then N of the next, all as packed rows. Raises StoreUnavailable."""
    packed = [use for use in uses if use.is_packed]
    others = [use for use in uses if not use.is_packed]
    unique = {use.alias: list(dict.fromkeys(entities.ids[use.entity])) for use in others}
    keys = [use.prefix + entity for use in packed for entity in entities.ids[use.entity]]
    commands = {use.alias: use.layout.commands(unique[use.alias]) for use in others}
    asked = [command for use in others for command in commands[use.alias]]
    rows, replies = await asyncio.gather(store.lookup(keys, deadline), store.ask(asked, deadline))

    found: dict[str, list[bytes | None]] = {}
    for number, use in enumerate(packed):
        found[use.alias] = list(rows[number * entities.rows : (number + 1) * entities.rows])
    start = 0
    for use in others:
        stop = start + len(commands[use.alias])
        row_of = dict(zip(unique[use.alias], use.layout.decode(replies[start:stop]), strict=True))
        found[use.alias] = [row_of[entity] for entity in entities.ids[use.entity]]
        start = stop
    return [row for use in uses for row in found[use.alias]]
