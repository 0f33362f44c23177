"""What is stored for one entity, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import RedisCluster

from services.transformer.administration import Administration, administration
from services.transformer.config import RedisConfig
from services.transformer.keys import entity_text, joined_ids
from services.transformer.layout.stored import layout_of
from services.transformer.layout.versions import PreviousSchemas
from services.transformer.row import NEVER, RowFormat
from services.transformer.schema import Value
from services.transformer.views import FeatureView

__all__ = ["Peeked", "PeekedFeature", "described", "entity_of", "look", "peek"]

SHOWN_ELEMENTS = 6  # of a vector
SHOWN_CHARACTERS = 60  # of a text


@dataclass(frozen=True, slots=True)
class PeekedFeature:
    """One feature as it would be served, whether that is the stored value, and what was found."""

    name: str
    datatype: str
    value: str
    status: str  # present | defaulted | stale | fails
    found: str = "PRESENT"  # PRESENT | NULL | MISSING | STALE | FOREIGN
    stored: Value = None
    age_s: float | None = None
    """Of its source group; None where nobody knows it."""


@dataclass(frozen=True, slots=True)
class Peeked:
    """A row: what was found (present, missing, stale, foreign), how old it is, and why it can't be used, if it can't."""

    status: str
    age_s: float | None
    note: str
    features: list[PeekedFeature]


async def peek(config: RedisConfig, name: str, view: FeatureView, entity: str, *, now: float) -> Peeked:
    """Look one entity up. Raises ValueError for an id that is none, and redis-py's errors."""
    client = administration(config)
    try:
        return (await look(client, config.key_prefix, name, view, [entity], now=now))[0]
    finally:
        await client.aclose()


async def look(
    client: Administration, prefix: str, name: str, view: FeatureView, entities: Sequence[str], *, now: float
) -> list[Peeked]:
    """Look entities up, whatever the layout of their rows. Raises ValueError for an id that is none, and redis-py's errors."""
    layout = RowFormat(view.columns)
    kinds = {part.name: part.type for part in view.entity.parts}
    stored = layout_of(view.layout, layout, prefix=prefix, view=name, entity=kinds)
    texts = [entity_of(view, entity) for entity in entities]
    peeked = []
    for text in texts:
        commands = stored.commands([text])
        pipe: Any = client.pipeline() if isinstance(client, RedisCluster) else client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies = await pipe.execute(raise_on_error=False)
        peeked.append(described(view, stored.decode(replies)[0], now))
    return peeked


def entity_of(view: FeatureView, entity: str) -> bytes:
    """An entity as it stands in keys. One with several ids is given with `:` between them, and `%3A` for one within an id.

    Raises ValueError for what can't be one.
    """
    parts = view.entity.parts
    given = entity.split(":") if len(parts) > 1 else [entity]
    if len(given) != len(parts):
        names = ":".join(part.name for part in parts)
        raise ValueError(f"entity {entity!r}: expected {len(parts)} ids as {names}, got {len(given)}")
    ids = []
    for part, text in zip(parts, given, strict=True):
        one = text.replace("%3A", ":").replace("%25", "%") if len(parts) > 1 else text
        try:
            ids.append(entity_text(int(one) if part.type == "int" and one else one))
        except ValueError as error:
            why = str(error) if "entity" in str(error) else f"expected a whole number as {part.name}, got {one!r}"
            raise ValueError(why) from None
    return joined_ids(ids)


def described(view: FeatureView, row: bytes | None, now: float) -> Peeked:
    """What a row, or none, means under the policies of its view."""
    layout = RowFormat(view.columns)
    note = ""
    if row is not None and (earlier := PreviousSchemas(layout, view.past)) and earlier.knows(row):
        row, note = earlier.upgraded(row), "written under a previous schema, and read as the present one"
    if row is None or (why := layout.why_foreign(row)):
        status = "missing" if row is None else "foreign"
        policies = [view.missing_of(feature.group) for feature in view.features]
        in_place = [_in_place(view, at, policy, status.upper(), None) for at, policy in enumerate(policies)]
        return Peeked(status, None, "" if row is None else why, in_place)
    values = layout.unpack(row).values
    features: list[PeekedFeature | None] = [None] * len(values)
    ages: list[float] = []
    status = "present"
    for group, time_us in zip(layout.groups, layout.event_times(row), strict=True):
        age_s = None if time_us == NEVER else now - time_us / 1e6
        ages += [] if age_s is None else [age_s]
        limit = view.max_ages.get(group.name, view.max_age)
        is_stale = limit is not None and (age_s is None or age_s > limit)
        if is_stale:
            status, note = "stale", note or f"older than {limit:.0f} s"
        for position in group.positions:
            features[position] = _described(view, position, values[position], age_s, is_stale=is_stale)
    return Peeked(status, max(ages, default=None), note, [feature for feature in features if feature is not None])


def _described(view: FeatureView, at: int, value: Value, age_s: float | None, *, is_stale: bool) -> PeekedFeature:
    feature = view.features[at]
    if is_stale and (policy := view.stale_of(feature.group)) != "serve":
        return _in_place(view, at, policy, "STALE", age_s, value)
    if value is None:
        return _in_place(view, at, view.missing_of(feature.group), "NULL", age_s)
    found = "STALE" if is_stale else "PRESENT"
    text = _text(value, feature.datatype)
    return PeekedFeature(feature.name, feature.datatype, text, found.lower(), found, value, age_s)


def _in_place(
    view: FeatureView, at: int, policy: str, found: str, age_s: float | None, stored: Value = None
) -> PeekedFeature:
    feature = view.features[at]
    status = "defaulted" if policy == "default" else "fails"
    text = "–" if policy == "fail" else _text(feature.default, feature.datatype)
    return PeekedFeature(feature.name, feature.datatype, text, status, found, stored, age_s)


def _text(value: Value, datatype: str) -> str:
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_text(each, datatype) for each in value[:SHOWN_ELEMENTS])
        return f"[{shown}{f', … {len(value)} in all' if len(value) > SHOWN_ELEMENTS else ''}]"
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value if len(value) <= SHOWN_CHARACTERS else f"{value[: SHOWN_CHARACTERS - 1]}…"
    return f"{value:.7g}" if datatype in ("FP16", "FP32") and isinstance(value, float) else str(value)
