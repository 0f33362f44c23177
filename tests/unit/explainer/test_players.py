"""Which features there are, and what they are called."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from infermesh.errors import FailedPrecondition
from services.explainer.players import Players
from services.explainer.signature import Signature, TensorSpec


def signature(*inputs: tuple[str, tuple[int, ...]], **columns: object) -> Signature:
    properties = {
        f"infermesh.columns.{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in columns.items()
    }
    return Signature("m", ("1",), tuple(TensorSpec(n, "FP32", s) for n, s in inputs), (), properties)


def names(of: Signature) -> list[str]:
    return list(Players.of(of, {spec.name: spec.shape[1:] for spec in of.inputs}, 10).names)


def test_each_column_of_each_input_is_a_player_in_the_order_of_the_inputs() -> None:
    """A single column is named by its input, whether the input is [-1] or [-1, 1]."""
    of = signature(("amount", (-1, 1)), ("hour", (-1,)), ("card", (-1, 3)), card=["age", "limit", "risk"])

    players = Players.of(of, {"amount": (1,), "hour": (), "card": (3,)}, 5)

    assert players.names == ("amount", "hour", "age", "limit", "risk")
    assert {name: index.tolist() for name, index in players.of_column.items()} == {
        "amount": [0],
        "hour": [1],
        "card": [2, 3, 4],
    }


@pytest.mark.parametrize("columns", [None, ["one"], ["a", "b", 3], ["\ud800", "b", "c"], "no JSON", {"a": 1}, 17])
def test_columns_without_usable_names_are_numbered(columns: object) -> None:
    """No names, too few of them, no list of texts, or texts that can't be written."""
    of = signature(("x", (-1, 3)), **({} if columns is None else {"x": columns}))

    assert names(of) == ["x[0]", "x[1]", "x[2]"]


def test_elements_of_deeper_rows_are_named_by_their_indices() -> None:
    """In row-major order."""
    assert names(signature(("x", (-1, 2, 2)))) == ["x[0,0]", "x[0,1]", "x[1,0]", "x[1,1]"]


def test_a_name_that_two_inputs_share_is_told_apart() -> None:
    """No two features of an explanation have one name."""
    of = signature(("home", (-1, 2)), ("shop", (-1, 2)), home=["lat", "lon"], shop=["lat", "size"])

    assert names(of) == ["home.lat", "lon", "shop.lat", "size"]


@pytest.mark.parametrize(
    "shapes", [{"a": (2**40,), "b": (3,)}, {"a": (4,), "b": (2**20, 2**20)}, {"a": (8,), "b": (3,)}]
)
def test_too_many_columns_are_refused_before_any_of_them_has_a_name(shapes: dict[str, tuple[int, ...]]) -> None:
    """A trillion of them, which nobody could write down, like one more than allowed; all inputs count together."""
    of = signature(("a", (-1, -1)), ("b", (-1, -1)))

    with pytest.raises(
        FailedPrecondition, match=r"expected 1 to 10 features to tell apart, its inputs have \d+ columns"
    ):
        Players.of(of, shapes, 10)

    assert len(Players.of(of, {"a": (7,), "b": (3,)}, 10)) == 10


def test_no_columns_are_no_features() -> None:
    """There is nothing to attribute to."""
    with pytest.raises(FailedPrecondition, match="its inputs have 0 columns"):
        Players.of(signature(("x", (-1, 0))), {"x": (0,)}, 10)


def test_columns_in_a_text_too_deep_to_read_are_numbered() -> None:
    of = signature(("x", (-1, 2)))
    deep = replace(of, properties={"infermesh.columns.x": "[" * 100_000})

    assert names(deep) == ["x[0]", "x[1]"]
