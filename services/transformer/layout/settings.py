"""Which layout the rows of a view have in Redis, as a feature file says it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from infermesh.config import Model

__all__ = ["EntityType", "FeastSetting", "HashSetting", "LayoutSetting", "PackedSetting"]

ENTITY = "{entity}"
EntityType = Literal["STRING", "BYTES", "INT32", "INT64", "UNIX_TIMESTAMP"]


class PackedSetting(Model):
    """Packed rows of our own, one Redis string each."""

    kind: Literal["packed"] = "packed"
    """Packed rows."""


class HashSetting(Model):
    """A plain Redis hash for each entity, its fields readable text."""

    kind: Literal["hash"] = "hash"
    """Plain hashes."""
    key: str = ""
    """The key, with `{entity}` in the place of the entity; left out: `<prefix>:<view>:{entity}`."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Fields of features that have another name there, by feature."""
    event_time: str = ""
    """Field that holds the event time; left out: nobody knows it, and the view can have no `max_age`."""
    unit: Literal["s", "ms", "us"] = "s"
    """What an event time counts that is a number."""

    @field_validator("key")
    @classmethod
    def _names_the_entity(cls, key: str) -> str:
        if key and key.count(ENTITY) != 1:
            raise ValueError(f"expected a key with one {ENTITY}")
        return key


class FeastSetting(Model):
    """The hashes that Feast's Redis online store writes."""

    kind: Literal["feast"] = "feast"
    """Feast's hashes."""
    project: str = Field(min_length=1)
    """Feast's project."""
    view: str = ""
    """Feast's feature view, with its suffix `_v<N>` where Feast versions its views; left out: the view's own name."""
    join_keys: dict[str, EntityType] = Field(default_factory=dict)
    """Feast's join keys and their value types, in the order of the entity's; left out: its names, STRING or INT64."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Features that have another name in Feast, by feature."""


def _by_name(given: Any) -> Any:
    return {"kind": given} if isinstance(given, str) else given


LayoutSetting = Annotated[
    PackedSetting | HashSetting | FeastSetting, Field(discriminator="kind"), BeforeValidator(_by_name)
]
"""`packed`, `hash` or a mapping with `kind` and what belongs to it."""
