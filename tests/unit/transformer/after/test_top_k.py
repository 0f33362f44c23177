"""The highest of each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from infermesh.errors import FailedPrecondition, Internal
from services.transformer.after.ranking import SORTED, highest

ROWS = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]], np.float32)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("names", [["a", "b", "c"], "model"])
async def test_the_highest_come_first_with_their_names(answered: Any, raw: bool, names: Any) -> None:
    """Of equals the first column is before the others; names are the step's own or the model's."""
    step = {"top_k": {"of": "p", "k": 2, "names": names}}

    outputs = await answered({"p": ROWS}, step, raw=raw, classes=["a", "b", "c"])

    assert list(outputs) == ["p", "top_values", "top_classes"]
    assert outputs["top_values"].tolist() == np.array([[0.7, 0.2], [0.4, 0.4]], np.float32).tolist()
    assert outputs["top_classes"].tolist() == [[b"b", b"c"], [b"a", b"c"]]


async def test_without_names_they_have_their_indices(answered: Any) -> None:
    """INT64, under the names that are given to the outputs; FP64 values are ranked before they are rounded."""
    rows = np.array([[0.5, 0.5 + 1e-12]])
    step = {"top_k": {"of": "p", "k": 2, "values": "v", "classes": "i"}}

    outputs = await answered({"p": rows}, step)

    assert outputs["v"].dtype == np.float32
    assert (outputs["i"].dtype, outputs["i"].tolist()) == (np.int64, [[1, 0]])


@pytest.mark.parametrize(
    ("array", "names", "words"),
    [
        (ROWS[:, :1], None, r"expected floats \[N, C\] with 2 columns or more, got FP32 \[2, 1\]"),
        (ROWS[:, 0], None, r"got FP32 \[2\]"),
        (ROWS.astype(np.int64), None, r"got INT64 \[2, 3\]"),
        (ROWS, ["a", "b"], "expected a column for each of 2 names, got 3"),
        (ROWS, "model", "expected a column for each of 0 names, got 3"),
    ],
)
async def test_an_answer_that_does_not_fit(answered: Any, array: Any, names: Any, words: str) -> None:
    """Too few columns, other datatypes, other widths than there are names: INTERNAL."""
    with pytest.raises(Internal, match=words):
        await answered({"p": array}, {"top_k": {"of": "p", "k": 2, "names": names}})


async def test_a_nan_has_no_rank(answered: Any) -> None:
    """A row with one is refused, wherever it would come."""
    rows = ROWS.copy()
    rows[1, 2] = np.nan

    with pytest.raises(FailedPrecondition, match="row 1: NaN, which has no rank"):
        await answered({"p": rows}, {"top_k": {"of": "p", "k": 1}})


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 5), st.one_of(st.integers(1, 4), st.integers(SORTED - 1, SORTED + 9))),
        elements=st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.1, 0.2, 0.3, np.inf]),
    ),
    st.data(),
)
def test_the_highest_are_those_of_a_sort(rows: Any, data: st.DataObject) -> None:
    """Python's stable sort of each row gives the same columns in the same order, for few columns and for many."""
    k = data.draw(st.integers(1, rows.shape[1]))

    found = highest(rows, k)

    assert found.tolist() == [sorted(range(len(row)), key=lambda at, row=row: -row[at])[:k] for row in rows.tolist()]
