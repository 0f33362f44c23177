"""Fetching the rows of a request where not all of them are packed: in one round trip as well, each key once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from infermesh.deadline import Deadline
from services.transformer.entities import Entities
from services.transformer.found import UNANSWERED
from services.transformer.layout.stored import Layout
from services.transformer.store import FeatureStore, StoreUnavailable
from services.transformer.use import Use

__all__ = ["fetched"]


async def fetched(
    uses: Sequence[Use], entities: Entities, store: FeatureStore, deadline: Deadline
) -> list[bytes | None]:
    """What the keys of all rows hold, N of the first view, then N of the next, all as packed rows. Raises StoreUnavailable.

    Packed rows that were cached are served while the store is away, as they are where all rows are packed.
    """
    if len(uses) == 1 and not uses[0].is_packed:  # as most services have it: nothing is to be told apart
        ids, layout = entities.ids[uses[0].entity], uses[0].layout
        if len(ids) == 1:
            return layout.decode(await store.ask(layout.commands(ids), deadline))
        return await _of_one(layout, ids, store, deadline)
    packed = [use for use in uses if use.is_packed]
    others = [use for use in uses if not use.is_packed]
    unique = {use.alias: list(dict.fromkeys(entities.ids[use.entity])) for use in others}
    keys = [use.prefix + entity for use in packed for entity in entities.ids[use.entity]]
    commands = {use.alias: use.layout.commands(unique[use.alias]) for use in others}
    asked = [command for use in others for command in commands[use.alias]]
    rows: list[bytes | None] | BaseException = []
    replies: list[Any] | BaseException
    if packed:
        rows, replies = await asyncio.gather(
            store.lookup(keys, deadline), store.ask(asked, deadline), return_exceptions=True
        )
    else:  # no tasks for one of them
        replies = await store.ask(asked, deadline)
    if isinstance(rows, BaseException) or isinstance(replies, BaseException):
        raise _failure(rows, replies, uses, entities.rows)

    found: dict[str, list[bytes | None]] = {}
    for number, use in enumerate(packed):
        found[use.alias] = list(rows[number * entities.rows : (number + 1) * entities.rows])
    start = 0
    for use in others:
        stop = start + len(commands[use.alias])
        row_of = dict(zip(unique[use.alias], await _decoded(use.layout, replies[start:stop]), strict=True))
        found[use.alias] = [row_of[entity] for entity in entities.ids[use.entity]]
        start = stop
    return [row for use in uses for row in found[use.alias]]


async def _of_one(layout: Layout, ids: Sequence[bytes], store: FeatureStore, deadline: Deadline) -> list[bytes | None]:
    """The same for the rows of one view, none of which are packed."""
    unique = list(dict.fromkeys(ids))
    rows = await _decoded(layout, await store.ask(layout.commands(unique), deadline))
    if len(unique) == len(ids):
        return rows
    row_of = dict(zip(unique, rows, strict=True))
    return [row_of[entity] for entity in ids]


async def _decoded(layout: Layout, replies: Sequence[Any]) -> list[bytes | None]:
    """Rows of all replies, piece by piece: other requests are answered in between.

    Not in a thread: it would hold the interpreter for 5 ms at a time, as often as the loop wants to go on.
    """
    rows: list[bytes | None] = []
    step = layout.rows_at_once
    for start in range(0, len(replies), step):
        if start:
            await asyncio.sleep(0)
        rows += layout.decode(replies[start : start + step])
    return rows


def _failure(rows: object, replies: object, uses: Sequence[Use], count: int) -> BaseException:
    """The graver of two failures; if the store is away, with what is kept of packed rows, in the order of all."""
    failures = [each for each in (rows, replies) if isinstance(each, BaseException)]
    for each in failures:
        if not isinstance(each, StoreUnavailable):
            return each
    if not isinstance(rows, StoreUnavailable) or rows.kept is None:
        return failures[-1]
    kept: list[bytes] = []
    start = 0
    for use in uses:
        if use.is_packed:
            kept += rows.kept[start : start + count]
            start += count
        else:
            kept += [UNANSWERED] * count
    return StoreUnavailable(str(rows), kept)
