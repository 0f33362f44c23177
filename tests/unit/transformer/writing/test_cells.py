"""Columns of text: the quick way and the slow one say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.transformer.schema import CODES, TEXT, Column
from services.transformer.writing.cells import _one_by_one, parse_cells

CELLS = st.one_of(
    st.sampled_from(
        ["", " ", "0", "1", "-1", "007", "+7", "1_0", " 5 ", "nan", "inf", "1e39", "1e999", "true", "FALSE", "x"]
    ),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(repr),
    st.text(max_size=5),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*CODES, TEXT]), st.lists(CELLS.filter(lambda text: text.isprintable()), max_size=6))
def test_a_column_at_a_time_is_as_cell_by_cell(datatype: str, cells: list[str]) -> None:
    """Which cells fit, what they mean and what is null does not depend on the way in which a column is read."""
    column = Column("f", datatype)
    nulls = np.array([cell == "" for cell in cells], np.bool_)

    quick = parse_cells(cells, column)
    slow = _one_by_one(cells, column, nulls)

    assert quick.faults == slow.faults
    for at in range(len(cells)):
        if at in quick.faults:
            continue
        is_null = quick.data.nulls is not None and bool(quick.data.nulls[at])
        assert is_null == bool(slow.data.nulls is not None and slow.data.nulls[at])
        if not is_null:
            np.testing.assert_equal(quick.data.values[at], slow.data.values[at])


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("[1, 2.5, -3]", [1.0, 2.5, -3.0]),
        ("", None),
        ("[1, 2]", "expected FP32 [3], got [1, 2]"),
        ("1 2 3", "expected FP32 [3] as a JSON array, got '1 2 3'"),
        ("[1, 1e400, 3]", "expected FP32 [3] as a JSON array, got '[1, 1e400, 3]'"),
        ('[1, "2", 3]', "expected FP32, got '2'"),
        ("[" * 100_000, "expected FP32 [3] as a JSON array, got '[[["),
    ],
)
def test_a_vector_is_a_json_array(cell: str, expected: Any) -> None:
    """Its elements are read; another shape, no JSON, or JSON of any depth is told in words."""
    parsed = parse_cells([cell], Column("v", "FP32", (3,)))

    if isinstance(expected, str):
        assert parsed.faults[0].startswith(f'feature "v": {expected}')
    elif expected is None:
        assert parsed.data.nulls is not None
        assert parsed.data.nulls.tolist() == [True]
    else:
        assert not parsed.faults
        assert np.asarray(parsed.data.values[0]).tolist() == expected


def test_a_text_keeps_its_blanks() -> None:
    """A text is what stands in the cell; only an empty cell is null."""
    parsed = parse_cells([" a ", "", "ü"], Column("t", TEXT))

    assert list(parsed.data.values) == [b" a ", b"", "ü".encode()]
    assert parsed.data.nulls is not None
    assert parsed.data.nulls.tolist() == [False, True, False]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_a_number_past_all_floats_is_refused(datatype: str) -> None:
    """1e400 is out of range as 1e39 is; infinity is a value where somebody wrote it."""
    parsed = parse_cells(["1e400", "-1e400", "inf", "-Infinity"], Column("f", datatype))

    assert list(parsed.faults) == [0, 1]
    assert parsed.faults[0] == f"""feature "f": expected {datatype}, got '1e400'"""
    assert np.asarray(parsed.data.values)[2:].tolist() == [float("inf"), float("-inf")]
