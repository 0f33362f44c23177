"""Which features there are, and what they are called."""

from __future__ import annotations

import json

import pytest

from services.explainer.players import Players
from services.explainer.signature import Signature, TensorSpec


def signature(*inputs: tuple[str, tuple[int, ...]], **columns: object) -> Signature:
    properties = {
        f"infermesh.columns.{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in columns.items()
    }
    return Signature("m", ("1",), tuple(TensorSpec(n, "FP32", s) for n, s in inputs), (), properties)


def names(of: Signature) -> list[str]:
    return list(Players.of(of, {spec.name: spec.shape[1:] for spec in of.inputs}).names)


def test_each_column_of_each_input_is_a_player_in_the_order_of_the_inputs() -> None:
    """A single column is named by its input, whether the input is [-1] or [-1, 1]."""
    of = signature(("amount", (-1, 1)), ("hour", (-1,)), ("card", (-1, 3)), card=["age", "limit", "risk"])

    players = Players.of(of, {"amount": (1,), "hour": (), "card": (3,)})

    assert players.names == ("amount", "hour", "age", "limit", "risk")
    assert {name: index.tolist() for name, index in players.of_column.items()} == {
        "amount": [0],
        "hour": [1],
        "card": [2, 3, 4],
    }


@pytest.mark.parametrize("columns", [None, ["one"], ["a", "b", 3], "no JSON", {"a": 1}])
def test_columns_without_usable_names_are_numbered(columns: object) -> None:
    """No names, too few of them, or no list of texts."""
    of = signature(("x", (-1, 3)), **({} if columns is None else {"x": columns}))

    assert names(of) == ["x[0]", "x[1]", "x[2]"]


def test_elements_of_deeper_rows_are_named_by_their_indices() -> None:
    """In row-major order."""
    assert names(signature(("x", (-1, 2, 2)))) == ["x[0,0]", "x[0,1]", "x[1,0]", "x[1,1]"]


def test_a_name_that_two_inputs_share_is_told_apart() -> None:
    """No two features of an explanation have one name."""
    of = signature(("home", (-1, 2)), ("shop", (-1, 2)), home=["lat", "lon"], shop=["lat", "size"])

    assert names(of) == ["home.lat", "lon", "shop.lat", "size"]
