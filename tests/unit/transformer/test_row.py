"""The packed row: what goes in comes out, what is foreign is told, and the documentation shows the truth."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.transformer.row import ForeignRow, RowFormat

DOCUMENT = Path(__file__).parents[3] / "docs" / "feature-format.md"
EXAMPLE = [("visits", "INT64"), ("score", "FP32"), ("vip", "BOOL")]

VALUES = {
    "FP32": st.floats(width=32),
    "FP64": st.floats(),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BOOL": st.booleans(),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[str, str]], list[Any]]:
    """A schema, and values that fit it."""
    datatypes = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=40))
    return [(f"f{i}", d) for i, d in enumerate(datatypes)], [draw(st.none() | VALUES[d]) for d in datatypes]


@settings(deadline=None)
@given(tables(), st.integers(-(2**63), 2**63 - 1))
def test_what_is_packed_is_unpacked(table: tuple[list[tuple[str, str]], list[Any]], event_time_us: int) -> None:
    """Any values that fit a schema, nulls among them, come back bit for bit with their event time."""
    columns, values = table
    layout = RowFormat(columns)

    row = layout.unpack(layout.pack(values, event_time_us))

    assert row.event_time_us == event_time_us
    assert [bits(v) for v in row.values] == [bits(v) for v in values]


@settings(deadline=None)
@given(tables())
def test_every_row_of_a_schema_has_the_same_width_and_mark(table: tuple[list[tuple[str, str]], list[Any]]) -> None:
    """Rows laid end to end are a table of bytes: their width depends on nothing but the schema."""
    columns, values = table
    layout = RowFormat(columns)

    row = layout.pack(values, 0)

    assert len(row) == layout.width == layout.offsets[-1]
    assert row.startswith(layout.mark)


@settings(deadline=None)
@given(tables())
def test_a_column_is_where_its_offset_says(table: tuple[list[tuple[str, str]], list[Any]]) -> None:
    """Each value stands little-endian at its offset, so that a reader needs no code of ours."""
    columns, values = table
    layout = RowFormat(columns)
    dtypes = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "BOOL": "?"}

    row = layout.pack(values, 0)

    for (_, datatype), at, value in zip(columns, layout.offsets, values, strict=False):
        read = np.frombuffer(row, dtypes[datatype], 1, at)[0].item()
        assert bits(read) == bits(0 if value is None else value) or (value is None and not read)


@settings(deadline=None)
@given(tables(), st.data())
def test_a_row_that_is_cut_off_is_foreign(table: tuple[list[tuple[str, str]], list[Any]], data: st.DataObject) -> None:
    """No beginning of a row is taken for a row."""
    columns, values = table
    layout = RowFormat(columns)
    row = layout.pack(values, 0)
    end = data.draw(st.integers(0, len(row) - 1))

    with pytest.raises(ForeignRow):
        layout.unpack(row[:end])


@pytest.mark.parametrize(
    "other",
    [
        [("score", "FP32"), ("visits", "INT64"), ("vip", "BOOL")],
        [("visits", "FP64"), ("score", "FP32"), ("vip", "BOOL")],
        [("visits", "INT64"), ("rating", "FP32"), ("vip", "BOOL")],
    ],
    ids=["order", "datatype", "name"],
)
def test_a_row_of_another_schema_is_foreign(other: list[tuple[str, str]]) -> None:
    """A schema that differs in order, datatype or name has another fingerprint, and its rows are refused, though as long."""
    row = RowFormat(other).pack([None, None, None], 0)

    with pytest.raises(ForeignRow, match="written under another schema: fingerprint"):
        RowFormat(EXAMPLE).unpack(row)


def test_a_row_of_a_later_format_is_foreign() -> None:
    """A format version and a flag that this reader does not know are refused, by number."""
    layout = RowFormat(EXAMPLE)
    row = layout.pack([1, 2.0, True], 0)

    assert "format version 2 with flags 0x00" in layout.why_foreign(row[:2] + b"\x02" + row[3:])
    assert "format version 1 with flags 0x01" in layout.why_foreign(row[:3] + b"\x01" + row[4:])
    assert "no feature row" in layout.why_foreign(b'{"visits": 1, "score": 2}')


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.5, 0.0, True], 'feature "visits": expected INT64, got 1.5'),
        ([2**63, 0.0, True], 'feature "visits": expected INT64, got 9223372036854775808, which 64 bits'),
        ([True, 0.0, True], 'feature "visits": expected INT64, got True'),
        ([1, 1e39, True], 'feature "score": expected FP32, got 1e\\+39, which is out of its range'),
        ([1, "1.0", True], "feature \"score\": expected FP32, got '1.0'"),
        ([1, 0.0, 1], 'feature "vip": expected BOOL, got 1'),
        ([1, 0.0], "expected 3 values, got 2"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(values: list[Any], words: str) -> None:
    """A value that the datatype can't hold is refused with the feature's name, never rounded or wrapped."""
    with pytest.raises(ValueError, match=words):
        RowFormat(EXAMPLE).pack(values, 0)


def test_the_documentation_says_how_a_fingerprint_is_made() -> None:
    """The fingerprint and the lines of the documented example are what the code makes of that schema."""
    text = DOCUMENT.read_text()
    lines = re.search(r"```schema\n(.*?)```", text, re.S)
    assert lines is not None

    made = int.from_bytes(hashlib.sha256(lines[1].encode()).digest()[:4], "little")

    assert [tuple(line.split()) for line in lines[1].splitlines()] == EXAMPLE
    assert f"{made:08x}" in text
    assert RowFormat(EXAMPLE).fingerprint == made


def test_the_documented_rows_are_what_the_code_writes() -> None:
    """Every row in hex of the documentation is what packing its values gives, byte for byte."""
    examples = re.findall(r"```row (\S+) ([^\n]+)\n(.*?)```", DOCUMENT.read_text(), re.S)
    layout = RowFormat(EXAMPLE)

    assert len(examples) == 3
    for event_time, values, shown in examples:
        packed = layout.pack([json.loads(value) for value in values.split()], int(event_time))
        assert packed.hex() == re.sub(r"\s", "", shown)


def bits(value: Any) -> Any:
    """What tells NaN from NaN and 0.0 from -0.0."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("<d", value)
    return value
