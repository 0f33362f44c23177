"""Fetching the rows of a request where not all of them are packed: few at a time, so that others are answered meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

from infermesh.deadline import Deadline
from infermesh.errors import ResourceExhausted
from services.transformer.entities import Entities
from services.transformer.found import UNANSWERED
from services.transformer.layout.stored import Command, Layout
from services.transformer.store import FeatureStore, Reading, StoreUnavailable
from services.transformer.use import Use

__all__ = ["FIELDS_AT_ONCE", "MAX_FIELDS", "fetched"]

FIELDS_AT_ONCE = 5_000  # of what is asked for in one piece: 0.1 ms of packing, 0.2 of parsing, and 2 of Redis'
PIECES = 2  # under way at a time: the next one is on its way while one is read
MAX_FIELDS = 500_000  # of a request: 10,000 entities of 50, 0.25 s of this process: more than a lookup should take

Part = tuple[Layout, Sequence[bytes]]
Rows = list[bytes | None]


async def fetched(uses: Sequence[Use], entities: Entities, store: FeatureStore, deadline: Deadline) -> Rows:
    """What the keys of all rows hold, N of the first view, then N of the next, all as packed rows; each key is asked for once.

    Raises StoreUnavailable with the rows that could be had, cached ones too, as where all rows are packed; and
    ResourceExhausted for more than MAX_FIELDS.
    """
    if len(uses) == 1 and not uses[0].is_packed and entities.rows == 1:  # as most requests have it
        layout = uses[0].layout
        return layout.decode(await store.ask(layout.commands(entities.ids[uses[0].entity]), deadline))
    answers: Sequence[Rows | StoreUnavailable]
    packed = [use for use in uses if use.is_packed]
    parts = {use.alias: _part(use, entities) for use in uses if not use.is_packed}
    fields = sum(layout.fields * len(ids) for layout, ids in parts.values())
    if fields > MAX_FIELDS:
        what = f"{entities.rows} rows have {fields} fields of hashes, at most {MAX_FIELDS}; send fewer rows"
        raise ResourceExhausted(what, reason="TOO_MANY_FIELDS")
    hashed = _hashed(list(parts.values()), store, deadline)
    if packed:
        keys = [use.prefix + entity for use in packed for entity in entities.ids[use.entity]]
        answers = await asyncio.gather(_attempted(store.lookup(keys, deadline)), _attempted(hashed))
    else:  # no tasks for one of them
        answers = [[], await _attempted(hashed)]
    of_packed = _known(answers[0], len(packed) * entities.rows)
    of_hashed = _known(answers[1], sum(len(ids) for _, ids in parts.values()))
    rows: Rows = []
    for use in uses:
        if use.is_packed:
            rows += [next(of_packed) for _ in range(entities.rows)]
        else:
            row_of = {entity: next(of_hashed) for entity in parts[use.alias][1]}
            rows += [row_of[entity] for entity in entities.ids[use.entity]]
    for answer in answers:
        if isinstance(answer, StoreUnavailable):
            raise StoreUnavailable(str(answer), rows if any(row is not UNANSWERED for row in rows) else None)
    return rows


def _part(use: Use, entities: Entities) -> Part:
    return use.layout, list(dict.fromkeys(entities.ids[use.entity]))


async def _attempted(rows: Coroutine[Any, Any, Rows]) -> Rows | StoreUnavailable:
    try:
        return await rows
    except StoreUnavailable as away:
        return away


def _known(answer: Rows | StoreUnavailable, count: int) -> Iterator[bytes | None]:
    """What an answer has, or what is known where there is none."""
    rows = answer.kept if isinstance(answer, StoreUnavailable) else answer
    return iter([UNANSWERED] * count if rows is None else rows)


async def _hashed(parts: Sequence[Part], store: FeatureStore, deadline: Deadline) -> Rows:
    """The rows of all parts. Raises StoreUnavailable, with UNANSWERED for those that could not be had in time.

    What is asked, and what is made of the replies, takes turns with other requests; both are within the budget of one lookup.
    """
    count = sum(len(ids) for _, ids in parts)
    if not count:
        return []
    reading = store.reading(deadline)
    pieces = _pieces(parts)
    under_way: deque[tuple[list[Part], asyncio.Task[list[Any]]]] = deque()
    rows: Rows = []

    def begin() -> None:
        for piece in pieces:
            if reading.is_over:
                return
            under_way.append((piece, asyncio.ensure_future(reading.ask(_commands(piece)))))
            if len(under_way) == PIECES:
                return

    try:
        begin()
        while under_way:
            piece, asked = under_way[0]
            replies = await asked
            under_way.popleft()
            if reading.failure is None or any(reply is not UNANSWERED for reply in replies):
                begin()  # while one server fails, others may reply
            if not await _decoded(piece, replies, reading, rows):
                break
    finally:
        for _, asked in under_way:
            asked.cancel()
    try:
        reading.ended()
    except StoreUnavailable as away:
        rows += [UNANSWERED] * (count - len(rows))
        raise StoreUnavailable(str(away), rows) from None
    return rows


def _pieces(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """The parts, cut where they have many fields, small ones together; a row is never cut."""
    piece: list[Part] = []
    room = FIELDS_AT_ONCE
    for layout, ids in parts:
        start = 0
        while start < len(ids):
            if piece and room < layout.fields:
                yield piece
                piece, room = [], FIELDS_AT_ONCE
            stop = min(len(ids), start + max(1, room // layout.fields))
            piece.append((layout, ids[start:stop]))
            room -= layout.fields * (stop - start)
            start = stop
    if piece:
        yield piece


def _commands(piece: Sequence[Part]) -> list[Command]:
    return [command for layout, ids in piece for command in layout.commands(ids)]


async def _decoded(piece: Sequence[Part], replies: Sequence[Any], reading: Reading, rows: Rows) -> bool:
    """Add the rows of a piece, some at a time; whether there was time for all.

    Not in a thread: it would hold the interpreter for 5 ms at a time, as often as the loop wants to go on.
    """
    start = 0
    for layout, ids in piece:
        end = start + len(ids)
        while start < end:
            if rows:
                await asyncio.sleep(0)
                if reading.is_over:
                    return False
            stop = min(end, start + layout.rows_at_once)
            rows += layout.decode(replies[start:stop])
            start = stop
    return True
