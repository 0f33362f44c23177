"""The commands that fetch the rows of a view, and what their replies hold: for packed rows, plain hashes and Feast's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from services.transformer.keys import key_prefix
from services.transformer.layout.feast import FeastCodec, FeastKeys, feature_field, time_field
from services.transformer.layout.fields import Fields
from services.transformer.layout.settings import ENTITY, FeastSetting, HashSetting, LayoutSetting, PackedSetting
from services.transformer.layout.text import TextCodec
from services.transformer.row import RowFormat

__all__ = ["Command", "Hashes", "Layout", "Packed", "faults_of", "layout_of"]

KEYS_PER_COMMAND = 1000  # Redis answers one command at a time: a longer one holds up the lookups of everybody else

Command = tuple[bytes, ...]


class Layout(Protocol):
    """Where the rows of a view lie, and how they are read."""

    def keys(self, entities: Sequence[bytes]) -> list[bytes]:
        """The key of each entity's row."""
        ...

    def commands(self, entities: Sequence[bytes]) -> list[Command]:
        """What fetches the rows of these entities, ids as they stand in keys; all in one round trip."""
        ...

    @property
    def fields(self) -> int:
        """How many fields a command has that fetches one row; 1 where it is not asked for by fields."""
        ...

    @property
    def rows_at_once(self) -> int:
        """How many replies should be decoded before the event loop does something else."""
        ...

    def decode(self, replies: Sequence[Any]) -> list[bytes | None]:
        """From the replies, in order, a packed row for each entity: None where there is none.

        What can't be read is an UnreadableRow, foreign for its own reason. A reply that is an error of the store is raised;
        UNANSWERED in its place is that row.
        """
        ...


class Packed:
    """Packed rows, each one a string: nothing is to be decoded."""

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self.rows_at_once = 2**31  # nothing is to be done
        self.fields = 1

    def keys(self, entities: Sequence[bytes]) -> list[bytes]:
        return [self._prefix + entity for entity in entities]

    def commands(self, entities: Sequence[bytes]) -> list[Command]:
        keys = self.keys(entities)
        return [(b"MGET", *keys[at : at + KEYS_PER_COMMAND]) for at in range(0, len(keys), KEYS_PER_COMMAND)]

    def decode(self, replies: Sequence[Any]) -> list[bytes | None]:
        rows: list[bytes | None] = []
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
            rows += reply
        return rows


class Hashes:
    """A hash for each entity, asked for the features' fields and the event time's with one HMGET."""

    def __init__(self, keys: Keys, names: Sequence[bytes], fields: Fields) -> None:
        self._keys = keys
        self._names = tuple(names)
        self._read = fields
        self.rows_at_once = fields.rows_at_once
        self.fields = max(1, len(self._names))

    def keys(self, entities: Sequence[bytes]) -> list[bytes]:
        return [self._keys.key(entity) for entity in entities]

    def commands(self, entities: Sequence[bytes]) -> list[Command]:
        return [(b"HMGET", key, *self._names) for key in self.keys(entities)]

    def decode(self, replies: Sequence[Any]) -> list[bytes | None]:
        return self._read.decode(replies)


class Keys(Protocol):
    """Names the key of an entity."""

    def key(self, entity: bytes) -> bytes: ...


class TextKeys:
    """Keys that are a text with the entity in it."""

    def __init__(self, template: bytes) -> None:
        self._before, _, self._after = template.partition(ENTITY.encode())

    def key(self, entity: bytes) -> bytes:
        return self._before + entity + self._after


def layout_of(
    setting: LayoutSetting,
    layout: RowFormat,
    *,
    prefix: str,
    view: str,
    entity: Mapping[str, str],
    used: Collection[str] | None = None,
) -> Layout:
    """The layout of a view's rows. `entity` are its ids' names, each with its type, string or int.

    `used` are the features that somebody takes; where each has a field of its own, no others are asked for.
    """
    names = [column.name for column in layout.schema if used is None or column.name in used]
    match setting:
        case PackedSetting():
            return Packed(key_prefix(prefix, view))
        case HashSetting():
            key = setting.key.encode() or key_prefix(prefix, view) + ENTITY.encode()
            fields = [setting.fields.get(name, name).encode() for name in names]
            fields += [setting.event_time.encode()] * bool(setting.event_time)
            return Hashes(TextKeys(key), fields, Fields(layout, TextCodec(setting.unit), setting.event_time, used))
        case FeastSetting():
            stored = setting.view or view
            join_keys = setting.join_keys or {n: "INT64" if t == "int" else "STRING" for n, t in entity.items()}
            fields = [feature_field(stored, setting.fields.get(name, name)) for name in names]
            fields.append(time_field(stored))
            time = fields[-1].decode()
            read = Fields(layout, FeastCodec(), time, used, FeastCodec.PLAIN)
            return Hashes(FeastKeys(setting.project, join_keys), fields, read)


def faults_of(setting: LayoutSetting, layout: RowFormat, *, entity: Mapping[str, str], aged: bool) -> list[str]:
    """What in a view's setting contradicts the view; `aged`: it, or a group of it, has a maximum age."""
    if isinstance(setting, PackedSetting):
        return []
    names = {column.name for column in layout.schema}
    faults = [f'layout.fields: no feature "{name}"' for name in setting.fields if name not in names]
    if any(column.group for column in layout.schema):
        faults.append("layout: source groups are for packed rows: a hash has one event time")
    if isinstance(setting, HashSetting) and aged and not setting.event_time:
        faults.append("layout.event_time: needed by max_age: without it nobody knows how old a row is")
    if isinstance(setting, FeastSetting) and setting.join_keys and len(setting.join_keys) != len(entity):
        faults.append(f"layout.join_keys: expected {len(entity)}, one for each id of the entity")
    return faults
