"""What was applied to a store, and what applying something else would do to its rows."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from services.transformer.config import RedisConfig
from services.transformer.views import FeatureFile
from services.transformer.writing.changes import changes, entries
from services.transformer.writing.registry import Applied, Registry, StaleRegistry

VIEW: dict[str, Any] = {"entity": {"name": "id"}, "features": [{"name": "a"}, {"name": "b", "datatype": "INT64"}]}
SERVICE: dict[str, Any] = {"inputs": {"x": {"columns": ["card.a"]}}}
OLD = [{"name": "a"}, {"name": "b", "datatype": "INT64"}]


def file_of(view: dict[str, Any], service: dict[str, Any] | None = SERVICE) -> FeatureFile:
    return FeatureFile.model_validate({"views": {"card": view}, "services": {"m": service} if service else {}})


def applied(file: FeatureFile, before: dict[str, Applied] | None = None, at_s: float = 1.0) -> dict[str, Applied]:
    after = entries(file, before or {}, changes(file, before or {}), at_s, "me")
    return {**(before or {}), **{name: entry for name, entry in after.items() if entry is not None}}


@pytest.mark.parametrize(
    ("view", "kind", "words"),
    [
        (VIEW, "same", ""),
        ({**VIEW, "description": "cards"}, "changed", "description: (none) → cards"),
        ({**VIEW, "max_age": "1h"}, "changed", "max_age: (none) → "),
        ({**VIEW, "entity": {"name": "card_id"}}, "changed", "entity.name: id → card_id"),
        ({**VIEW, "entity": {"name": "id", "type": "int"}}, "breaking", "keys of another entity"),
        ({**VIEW, "features": [*OLD, {"name": "c"}]}, "breaking", "name it under `previous`"),
        ({**VIEW, "features": [*OLD, {"name": "c"}], "previous": [OLD]}, "migration", "are read too"),
        ({**VIEW, "features": OLD[:1], "previous": [OLD[1:]]}, "breaking", "name it under `previous`"),
        ({**VIEW, "features": OLD[::-1]}, "breaking", "features: order changed"),
        (
            {**VIEW, "features": [{"name": "a", "datatype": "FP64"}, OLD[1]]},
            "breaking",
            "features.a.datatype: (none) → FP64",
        ),
        ({**VIEW, "layout": {"kind": "hash"}}, "breaking", "rows of one layout can't be read as another"),
    ],
)
def test_a_change_is_what_it_does_to_stored_rows(view: dict[str, Any], kind: str, words: str) -> None:
    """Only what leaves rows unread is breaking; an old schema that is named under `previous` is a migration."""
    change = changes(file_of(view), applied(file_of(VIEW)))[0]

    assert (change.name, change.kind) == ("view:card", kind)
    assert words in "\n".join(change.lines)


def test_services_are_compared_too() -> None:
    """A service is new, the same or changed; it breaks no row."""
    before = applied(file_of(VIEW))
    other = {"inputs": {"x": {"columns": ["card.a"], "datatype": "FP64"}}}

    assert [change.kind for change in changes(file_of(VIEW), {})] == ["new", "new"]
    assert [change.kind for change in changes(file_of(VIEW), before)] == ["same", "same"]
    assert changes(file_of(VIEW, other), before)[1].lines == ["inputs.x.datatype: (none) → FP64"]


def test_what_the_file_has_not_is_removed_only_by_request() -> None:
    """A file may be about some of the views."""
    before = applied(file_of(VIEW))
    less = file_of(VIEW, None)

    assert [change.name for change in changes(less, before)] == ["view:card"]
    removed = changes(less, before, remove=True)[1]
    assert (removed.name, removed.kind) == ("service:m", "removed")
    assert entries(less, before, [removed], 2.0, "me") == {"service:m": None}


async def test_schemas_are_kept_as_versions(client: Redis, redis_config: RedisConfig) -> None:
    """Each new schema counts up; the ones before it, with who applied them and when, are read back from the store."""
    registry = Registry(client, redis_config.key_prefix)
    first, second = file_of(VIEW), file_of({**VIEW, "features": [*OLD, {"name": "c"}]})

    await registry.write({}, entries(first, {}, changes(first, {}), 1.0, "ann"))
    before = await registry.read()
    await registry.write(before, entries(second, before, changes(second, before), 2.0, "bob"))

    entry = (await registry.read())["view:card"]
    assert (entry.version, entry.by, entry.at_s) == (2, "bob", 2.0)
    assert entry.columns == ("a FP32", "b INT64", "c FP32")
    assert [(past["version"], past["by"], past["columns"]) for past in entry.past] == [
        (1, "ann", ["a FP32", "b INT64"])
    ]
    assert await registry.read_one("view:card") == entry
    assert await registry.read_one("view:none") is None


async def test_of_two_who_apply_at_once_the_second_is_told(client: Redis, redis_config: RedisConfig) -> None:
    """What was shown as a change must still be one when it is made; else nothing is written."""
    registry = Registry(client, redis_config.key_prefix)
    file = file_of(VIEW)
    await registry.write({}, entries(file, {}, changes(file, {}), 1.0, "ann"))

    with pytest.raises(StaleRegistry, match="view:card was applied by somebody else meanwhile"):
        await registry.write({}, entries(file, {}, changes(file, {}), 2.0, "bob"))

    assert {entry.by for entry in (await registry.read()).values()} == {"ann"}


async def test_a_registry_that_is_none_is_said_to_be(client: Redis, redis_config: RedisConfig) -> None:
    """An entry that somebody else wrote is named, and not guessed at."""
    await client.hset(f"{redis_config.key_prefix}:.registry", "view:card", "{}")  # type: ignore[misc]

    with pytest.raises(ValueError, match="has an entry 'view:card' that can't be read"):
        await Registry(client, redis_config.key_prefix).read()
