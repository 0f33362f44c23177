"""Columns of rows as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.transformer.columns import Columns
from services.transformer.row import RowFormat
from services.transformer.schema import Column

CARD = RowFormat([("a", "FP32"), ("b", "FP32"), ("n", "INT64"), ("c", "FP32"), ("flag", "BOOL")])
SHOP = RowFormat([("x", "FP64"), ("y", "FP32")])
FORMATS = {"card": CARD, "shop": SHOP}


def rows(layout: RowFormat, *values: list[Any]) -> np.ndarray:
    table = b"".join(layout.pack(each, 0) for each in values)
    return np.frombuffer(table, np.uint8).reshape(-1, layout.width)


@pytest.fixture
def stored() -> dict[str, np.ndarray]:
    """Two rows of each view."""
    return {
        "card": rows(CARD, [1.5, 2.5, 3, 4.5, True], [10.5, 20.5, 30, 40.5, False]),
        "shop": rows(SHOP, [0.1, 0.25], [0.2, 0.75]),
    }


def test_neighbours_are_one_slice_of_the_rows(stored: dict[str, np.ndarray]) -> None:
    """Neighbours of one datatype become a matrix that is a view of the stored bytes: nothing is copied for it."""
    tensor = Columns([("card", "a"), ("card", "b")], FORMATS, "FP32").take(stored)

    assert tensor.dtype == np.float32
    assert tensor.tolist() == [[1.5, 2.5], [10.5, 20.5]]
    assert np.shares_memory(tensor, stored["card"])


def test_columns_come_in_the_order_that_was_declared(stored: dict[str, np.ndarray]) -> None:
    """Columns of several views and datatypes stand side by side in the declared order, as the input's datatype."""
    columns = [("card", "c"), ("shop", "y"), ("card", "n"), ("card", "a"), ("card", "flag"), ("shop", "x")]

    tensor = Columns(columns, FORMATS, "FP64").take(stored)

    assert tensor.dtype == np.float64
    assert tensor.tolist() == [[4.5, 0.25, 3.0, 1.5, 1.0, 0.1], [40.5, 0.75, 30.0, 10.5, 0.0, 0.2]]


def test_a_single_feature_may_be_a_vector(stored: dict[str, np.ndarray]) -> None:
    """A feature of its own is a column [N, 1], or [N] where the model wants it so."""
    column = Columns([("card", "n")], FORMATS, "INT64")
    vector = Columns([("card", "n")], FORMATS, "INT64", vector=True)

    assert (column.take(stored).shape, column.shape) == ((2, 1), (-1, 1))
    assert (vector.take(stored).tolist(), vector.shape) == ([3, 30], (-1,))


def test_a_bool_is_zero_or_one_whatever_was_stored() -> None:
    """A byte that is neither 0 nor 1 counts as true, and never reaches the model as it is."""
    table = rows(CARD, [0.0, 0.0, 0, 0.0, True]).copy()
    table[0, CARD.offsets[4]] = 7

    tensor = Columns([("card", "flag")], FORMATS, "BOOL").take({"card": table})

    assert tensor.tobytes() == b"\x01"


def test_no_rows_make_an_empty_tensor() -> None:
    """Zero entities give a tensor of zero rows and the full width."""
    empty = {"card": rows(CARD), "shop": rows(SHOP)}

    assert Columns([("card", "a"), ("shop", "x")], FORMATS, "FP32").take(empty).shape == (0, 2)
    assert Columns([("card", "a"), ("card", "b")], FORMATS, "FP32").take(empty).shape == (0, 2)


USER = RowFormat([Column("e", "FP32", (2, 2)), Column("x", "FP32"), Column("n", "INT16", (3,)), Column("h", "FP16")])


def test_a_feature_with_a_shape_keeps_it_as_an_input_of_its_own() -> None:
    """A matrix or a vector of each entity becomes [N, *shape], without a copy."""
    table = rows(USER, [[[1.0, 2.0], [3.0, 4.0]], 5.0, [6, 7, 8], 0.5], [[[0.0] * 2] * 2, 0.0, [9] * 3, 0.0])

    matrix = Columns([("user", "e")], {"user": USER}, "FP32")
    vector = Columns([("user", "n")], {"user": USER}, "INT16")

    assert (matrix.take({"user": table}).tolist()[0], matrix.shape) == ([[1.0, 2.0], [3.0, 4.0]], (-1, 2, 2))
    assert (vector.take({"user": table}).tolist(), vector.shape) == ([[6, 7, 8], [9, 9, 9]], (-1, 3))
    assert np.shares_memory(matrix.take({"user": table}), table)


def test_a_vector_beside_others_takes_as_many_columns_as_it_has_elements() -> None:
    """Features with shapes stand in a matrix element by element, cast as the others are."""
    table = rows(USER, [[[1.0, 2.0], [3.0, 4.0]], 5.0, [6, 7, 8], 0.5])
    columns = Columns([("user", "n"), ("user", "e"), ("user", "x"), ("user", "h")], {"user": USER}, "FP32")

    assert columns.take({"user": table}).tolist() == [[6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.5]]
    assert columns.shape == (-1, 9)


def test_texts_and_numbers_are_not_one_tensor() -> None:
    """A text beside a number, or as one, is refused when the columns are made."""
    formats = {"v": RowFormat([("t", "BYTES"), ("x", "FP32")])}

    with pytest.raises(ValueError, match="t, x: BYTES and numbers can't be one FP32"):
        Columns([("v", "t"), ("v", "x")], formats, "FP32")
    with pytest.raises(ValueError, match="can't be one BYTES"):
        Columns([("v", "x")], formats, "BYTES")
