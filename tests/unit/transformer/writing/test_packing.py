"""Whole columns become the same bytes as row after row."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.transformer.row import NEVER, RowFormat
from services.transformer.schema import CODES, TEXT, Column
from services.transformer.writing.packing import ColumnData, pack_rows, stored_dtype

TIMES = st.one_of(st.just(NEVER), st.integers(-(2**62), 2**62))


def value_of(column: Column) -> st.SearchStrategy[Any]:
    """Any value that a column can hold."""
    if column.datatype == TEXT:
        return st.binary(max_size=20)
    if column.datatype == "BOOL":
        one: st.SearchStrategy[Any] = st.booleans()
    elif column.datatype.startswith("FP"):
        one = st.floats(width={"FP16": 16, "FP32": 32, "FP64": 64}[column.datatype], allow_nan=False)
    else:
        limits = np.iinfo(stored_dtype(column.datatype))  # type: ignore[arg-type]
        one = st.integers(int(limits.min), int(limits.max))
    return st.lists(one, min_size=column.elements, max_size=column.elements) if column.shape else one


@st.composite
def tables(draw: st.DrawFn) -> tuple[RowFormat, list[list[Any]], list[list[int]]]:
    kinds = draw(
        st.lists(
            st.tuples(
                st.sampled_from([*CODES, TEXT]), st.sampled_from([(), (3,)]), st.sampled_from(["", "fast", "slow"])
            ),
            min_size=1,
            max_size=12,
        )
    )
    columns = [
        Column(f"f{at}", datatype, () if datatype == TEXT else shape, group)
        for at, (datatype, shape, group) in enumerate(kinds)
    ]
    layout = RowFormat(columns)
    count = draw(st.integers(0, 5))
    rows = [[draw(st.one_of(st.none(), value_of(column))) for column in columns] for _ in range(count)]
    times = [[draw(TIMES) for _ in layout.groups] for _ in range(count)]
    return layout, rows, times


def as_column(column: Column, values: list[Any]) -> ColumnData:
    nulls = np.array([value is None for value in values], np.bool_)
    if column.datatype == TEXT:
        return ColumnData([b"ignored" if value is None else value for value in values], nulls)
    held = np.ones((len(values), *column.shape), stored_dtype(column.datatype))
    for at, value in enumerate(values):
        if value is not None:
            held[at] = value
    return ColumnData(held, nulls)


@settings(max_examples=150, deadline=None)
@given(tables())
def test_columns_are_packed_as_rows_are(table: tuple[RowFormat, list[list[Any]], list[list[int]]]) -> None:
    """Whatever datatypes, shapes, groups, nulls and texts: the bytes are those of `RowFormat.pack`, row by row."""
    layout, rows, times = table
    columns = [as_column(column, [row[at] for row in rows]) for at, column in enumerate(layout.schema)]

    packed = pack_rows(layout, columns, np.array(times, np.int64).reshape(len(rows), len(layout.groups)))

    assert packed == [layout.pack(row, own) for row, own in zip(rows, times, strict=True)]
