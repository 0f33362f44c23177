"""What is stored for one entity, for people to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from services.transformer.administration import administration
from services.transformer.config import RedisConfig
from services.transformer.keys import entity_text, key_prefix
from services.transformer.row import RowFormat, Value
from services.transformer.views import FeatureView

__all__ = ["Peeked", "PeekedFeature", "peek"]


@dataclass(frozen=True, slots=True)
class PeekedFeature:
    """One feature as it would be served, and whether that is the stored value."""

    name: str
    datatype: str
    value: str
    status: str  # present | null | defaulted | stale | fails


@dataclass(frozen=True, slots=True)
class Peeked:
    """A row: what was found (present, missing, stale, foreign), how old it is, and why it can't be used, if it can't."""

    status: str
    age_s: float | None
    note: str
    features: list[PeekedFeature]


async def peek(config: RedisConfig, name: str, view: FeatureView, entity: str, *, now: float) -> Peeked:
    """Look one entity up. Raises ValueError for an id that is none, and redis-py's errors."""
    key = key_prefix(config.key_prefix, name) + entity_text(int(entity) if view.entity.type == "int" else entity)
    client = administration(config)
    try:
        row = cast("bytes | None", await client.get(key))  # nothing is decoded
    finally:
        await client.aclose()
    return described(view, row, now)


def described(view: FeatureView, row: bytes | None, now: float) -> Peeked:
    """What a row, or none, means under the policies of its view."""
    layout = RowFormat(view.columns)
    if row is None or (note := layout.why_foreign(row)):
        status = "missing" if row is None else "foreign"
        return Peeked(status, None, "" if row is None else note, _in_place(view, view.missing))
    event_time_us, values = layout.unpack(row)
    age_s = now - event_time_us / 1e6
    if view.max_age is not None and age_s > view.max_age:
        note = f"older than {view.max_age:.0f} s"
        if view.stale != "serve":
            return Peeked("stale", age_s, note, _in_place(view, view.stale))
        return Peeked("stale", age_s, note, _stored(view, values, "stale"))
    return Peeked("present", age_s, "", _stored(view, values, "present"))


def _stored(view: FeatureView, values: tuple[Value, ...], status: str) -> list[PeekedFeature]:
    in_place = _in_place(view, view.missing)
    return [
        other
        if value is None
        else PeekedFeature(feature.name, feature.datatype, _text(value, feature.datatype), status)
        for feature, value, other in zip(view.features, values, in_place, strict=True)
    ]


def _in_place(view: FeatureView, policy: str) -> list[PeekedFeature]:
    status = "defaulted" if policy == "default" else "fails"
    return [
        PeekedFeature(f.name, f.datatype, "–" if policy == "fail" else _text(f.default, f.datatype), status)
        for f in view.features
    ]


def _text(value: Value, datatype: str) -> str:
    return f"{value:.7g}" if datatype == "FP32" and isinstance(value, float) else f"{value}"
