"""Packed rows by commands, the setting that chooses a layout, and keys of several ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from services.transformer.keys import joined_ids, parted_ids
from services.transformer.layout.settings import FeastSetting, HashSetting, LayoutSetting, PackedSetting
from services.transformer.layout.stored import KEYS_PER_COMMAND, faults_of, layout_of
from services.transformer.row import RowFormat

SCHEMA = RowFormat([("x", "FP32")])
SETTING: TypeAdapter[LayoutSetting] = TypeAdapter(LayoutSetting)


def test_packed_rows_are_asked_for_together() -> None:
    """All keys in one MGET, or in several where it would hold others up; the rows come in the order of the entities."""
    layout = layout_of(PackedSetting(), SCHEMA, prefix="p", view="card", entity={"id": "string"})
    entities = [b"%d" % number for number in range(KEYS_PER_COMMAND + 1)]

    commands = layout.commands(entities)

    assert [command[0] for command in commands] == [b"MGET", b"MGET"]
    assert [key for command in commands for key in command[1:]] == [b"p:card:" + entity for entity in entities]
    assert layout.keys([b"7"]) == [b"p:card:7"]
    assert layout.decode([[b"a", None], [b"b"]]) == [b"a", None, b"b"]
    with pytest.raises(ConnectionError, match="LOADING"):
        layout.decode([ConnectionError("LOADING")])


def test_a_layout_is_a_name_or_a_mapping() -> None:
    """`layout: hash` is short for a mapping with that kind; Feast's needs a project; others are refused."""
    assert SETTING.validate_python("packed") == PackedSetting()
    assert SETTING.validate_python("hash") == HashSetting()
    assert SETTING.validate_python({"kind": "feast", "project": "p"}) == FeastSetting(project="p")
    for wrong in ("feast", "columns", {"kind": "hash", "project": "p"}, {"kind": "feast", "project": ""}):
        with pytest.raises(ValidationError):
            SETTING.validate_python(wrong)
    assert faults_of(PackedSetting(), SCHEMA, entity={"id": "string"}, aged=True) == []


@given(st.lists(st.binary(min_size=1), min_size=1, max_size=4), st.lists(st.binary(min_size=1), min_size=1, max_size=4))
def test_entities_of_several_ids_are_told_apart(one: list[bytes], other: list[bytes]) -> None:
    """As many ids joined are the same text only if they are the same ids, and can be parted again."""
    assert parted_ids(joined_ids(one), len(one)) == one
    if len(one) == len(other) and one != other:
        assert joined_ids(one) != joined_ids(other)


def test_a_single_id_stands_as_it_is() -> None:
    """What one id names is found under the same key as ever."""
    assert joined_ids([b"a:b%"]) == b"a:b%"
    assert joined_ids([b"a:b", b"c%"]) == b"a%3Ab:c%25"
    with pytest.raises(ValueError, match="expected 3 ids, got 2"):
        parted_ids(b"a:b", 3)
