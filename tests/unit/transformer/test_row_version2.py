"""Packed rows of version 2: more datatypes, vectors, texts and source groups."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from infermesh.tensors import DATATYPES as TENSORS
from services.transformer.layout.settings import FeastSetting, HashSetting, LayoutSetting
from services.transformer.row import NEVER, ForeignRow, RowFormat, UnreadableRow
from services.transformer.schema import CODES, MAX_TEXT_BYTES, TEXT, Column
from services.transformer.views import FeatureView

DOCUMENT = Path(__file__).parents[3] / "docs" / "feature-format.md"
DOCUMENTED = [
    Column("taps", "UINT16", (), "fast"),
    Column("city", "BYTES"),
    Column("embedding", "FP32", (2,)),
    Column("note", "BYTES"),
]


def scalars(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == TEXT:
        return st.binary(max_size=20)
    if datatype == "BOOL":
        return st.booleans()
    if datatype.startswith("FP"):
        return st.floats(width={"FP16": 16, "FP32": 32, "FP64": 64}[datatype], allow_nan=False)
    info = np.iinfo(TENSORS[datatype].dtype)
    return st.integers(int(info.min), int(info.max))


@st.composite
def columns(draw: st.DrawFn) -> list[Column]:
    """Any schema."""
    made = []
    for number in range(draw(st.integers(1, 12))):
        datatype = draw(st.sampled_from([*CODES, TEXT]))
        shape = () if datatype == TEXT else draw(st.sampled_from([(), (), (1,), (3,), (2, 3)]))
        made.append(Column(f"f{number}", datatype, shape, draw(st.sampled_from(["", "", "daily", "hourly"]))))
    return made


@st.composite
def rows(draw: st.DrawFn) -> tuple[RowFormat, list[Any], list[int]]:
    """A format, values that fit it, and an event time for each group."""
    layout = RowFormat(draw(columns()))
    values = []
    for column in layout.schema:
        one = scalars(column.datatype)
        for size in reversed(column.shape):
            one = st.tuples(*[one] * size)
        values.append(draw(st.none() | one))
    return layout, values, [draw(st.integers(NEVER, 2**63 - 1)) for _ in layout.groups]


@settings(deadline=None)
@given(rows())
def test_what_is_packed_is_unpacked(row: tuple[RowFormat, list[Any], list[int]]) -> None:
    """Values of any datatype and shape, nulls among them, come back with the event time of each group."""
    layout, values, times = row

    packed = layout.pack(values, times)

    assert layout.unpack(packed).values == tuple(values)
    assert layout.event_times(packed) == tuple(times)
    assert layout.unpack(packed).event_time_us == min(times)


@settings(deadline=None)
@given(rows())
def test_the_fixed_part_is_readable_where_the_format_says(row: tuple[RowFormat, list[Any], list[int]]) -> None:
    """Numbers stand little-endian in their slices, event times at multiples of 8, and no two places overlap."""
    layout, values, times = row

    packed = layout.pack(values, times)

    places = sorted((s.start, s.stop) for s in [*layout.slices, *(g.event_time for g in layout.groups)])
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))
    assert all(group.event_time.start % 8 == 0 for group in layout.groups)
    for column, stored, value in zip(layout.schema, layout.slices, values, strict=True):
        if value is not None and column.datatype != TEXT:
            read = np.frombuffer(packed[stored], TENSORS[column.datatype].dtype)
            assert read.tolist() == np.ravel(np.array(value, TENSORS[column.datatype].dtype)).tolist()


@settings(deadline=None)
@given(rows(), st.data())
def test_a_row_that_is_cut_off_or_too_long_is_foreign(
    row: tuple[RowFormat, list[Any], list[int]], data: st.DataObject
) -> None:
    """No beginning of a row is a row, not even where only a text is shorter; nor is a row with a byte too many."""
    layout, values, times = row
    packed = layout.pack(values, times)
    end = data.draw(st.integers(0, len(packed) - 1))

    for damaged in (packed[:end], packed + b"x"):
        with pytest.raises(ForeignRow):
            layout.unpack(damaged)


@settings(deadline=None)
@given(rows(), st.data())
def test_a_row_with_a_damaged_byte_is_read_or_foreign_and_never_a_crash(
    row: tuple[RowFormat, list[Any], list[int]], data: st.DataObject
) -> None:
    """Whatever one byte became, unpacking gives a row whose texts lie inside it, or says that it is foreign."""
    layout, values, times = row
    packed = bytearray(layout.pack(values, times))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))

    try:
        taken = layout.unpack(bytes(packed)).values
    except ForeignRow:
        return
    lengths = [len(v) for v in taken if isinstance(v, bytes)]
    assert layout.width + sum(lengths) <= len(packed)


@settings(deadline=None)
@given(columns(), columns())
def test_schemas_that_differ_have_other_fingerprints(one: list[Column], other: list[Column]) -> None:
    """Names, datatypes, shapes, groups and order all count."""
    assume(one != other)

    assert RowFormat(one).fingerprint != RowFormat(other).fingerprint


def test_a_schema_that_version_1_can_say_is_written_as_version_1() -> None:
    """Readers of version 1 go on reading the views that need nothing new."""
    old = RowFormat([("a", "FP32"), ("n", "INT64"), ("b", "BOOL"), ("d", "FP64")])

    assert old.version == 1
    assert RowFormat([Column("a", "FP32", (1,))]).version == 2
    assert RowFormat([Column("a", "FP32", group="g")]).version == 2
    assert RowFormat([("a", "INT32")]).version == 2


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (Column("f", "INT8"), 128, 'feature "f": expected INT8, got 128, which 8 bits'),
        (Column("f", "UINT64"), -1, "expected UINT64, got -1"),
        (Column("f", "UINT8"), True, "expected UINT8, got True"),
        (Column("f", "FP16"), 70000.0, "expected FP16, got 70000.0, which is out of its range"),
        (Column("f", TEXT), 5, "expected BYTES, got 5"),
        (Column("f", TEXT), "\ud800", "which UTF-8 can't hold"),
        (Column("f", TEXT), bytes(MAX_TEXT_BYTES + 1), "1048577 bytes, more than 1048576"),
        (Column("f", "FP32", (2,)), [1.0], r"expected FP32 \[2\], got \[1.0\]"),
        (Column("f", "FP32", (2,)), [1.0, "x"], "expected FP32, got 'x'"),
        (Column("f", "FP32", (2, 1)), [1.0, 2.0], r"expected FP32 \[2, 1\]"),
        (Column("f", "FP32", (2,)), 7.0, r"expected FP32 \[2\], got 7.0"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(column: Column, value: Any, words: str) -> None:
    """What datatype or shape can't hold is refused with the feature's name."""
    with pytest.raises(ValueError, match=words):
        RowFormat([column]).pack([value], 0)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (Column("f", "BF16"), "expected one of FP16"),
        (Column("f", TEXT, (2,)), "a vector of BYTES is not stored"),
        (Column("f", "FP32", (0,)), "expected a shape of 1 to"),
        (Column("f", "FP32", (1024, 1025)), "expected a shape of 1 to"),
    ],
)
def test_a_column_that_no_row_can_have_is_refused(column: Column, words: str) -> None:
    """A format is refused before anything is written in it."""
    with pytest.raises(ValueError, match=words):
        RowFormat([column])


def test_a_number_of_an_enumeration_is_looked_at_at_once() -> None:
    """A subclass of int fits by its value: 2**62 of them are not tried out one by one."""

    class Level(IntEnum):
        HIGH = 2**62

    layout = RowFormat([("level", "INT64")])

    assert layout.unpack(layout.pack([Level.HIGH], 0)).values == (2**62,)


def test_a_numpy_vector_is_a_vector() -> None:
    """An embedding may come as the array that a model gave."""
    layout = RowFormat([Column("e", "FP32", (3,))])

    assert layout.unpack(layout.pack([np.array([1, 2, 3], np.float32)], 0)).values == ((1.0, 2.0, 3.0),)


GROUPED = RowFormat(
    [Column("h", "FP32", (), "hourly"), Column("d", TEXT, (), "daily"), Column("d2", TEXT, (), "daily")]
)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.binary(max_size=5), st.binary(max_size=5))
def test_of_each_group_the_newer_one_stays(times: list[int], held: bytes, new: bytes) -> None:
    """Merging two rows takes each group from the one that has it newer, and at equal times from the new one."""
    first = GROUPED.pack([1.0, held, None], times[:2])
    second = GROUPED.pack([2.0, new, b"new"], times[2:])

    merged = GROUPED.merge(first, second)

    assert GROUPED.event_times(merged) == (max(times[0], times[2]), max(times[1], times[3]))
    hourly = 1.0 if times[0] > times[2] else 2.0
    daily = (held, None) if times[1] > times[3] else (new, b"new")
    assert GROUPED.unpack(merged).values == (hourly, *daily)


def test_a_row_that_could_not_be_read_says_why() -> None:
    """What another layout held and nobody could read is foreign to every format, for its own reason."""
    assert GROUPED.why_foreign(UnreadableRow("field 7 is no number")) == "field 7 is no number"


def test_the_documentation_shows_version_2_as_it_is_written() -> None:
    """Fingerprint and rows of the documented example are what the code makes of that schema, byte for byte."""
    text = DOCUMENT.read_text()
    lines = re.search(r"```schema2\n(.*?)```", text, re.S)
    examples = re.findall(r"```row2 (\S+) ([^\n]+)\n(.*?)```", text, re.S)
    assert lines is not None
    made = int.from_bytes(hashlib.sha256(lines[1].encode()).digest()[:4], "little")

    assert RowFormat(DOCUMENTED).fingerprint == made
    assert f"`{made:08x}`" in text
    assert len(examples) == 2
    for times, values, shown in examples:
        packed = RowFormat(DOCUMENTED).pack(json.loads(values), [int(time) for time in times.split(",")])
        assert packed.hex() == re.sub(r"\s", "", shown)


def test_the_documented_layouts_are_settings() -> None:
    """Every `layout` and `previous` that the documentation shows is one that a view takes."""
    shown = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.S)]
    layouts = [each["layout"] for each in shown if "layout" in each]

    assert [type(TypeAdapter(LayoutSetting).validate_python(each)) for each in layouts] == [HashSetting, FeastSetting]
    for schema in (each for each in shown if "previous" in each):
        FeatureView.model_validate({"entity": {"name": "id"}, "features": [{"name": "x"}], **schema})
