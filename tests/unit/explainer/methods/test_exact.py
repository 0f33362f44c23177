"""Exact attributions, against definitions that are written here once more."""

from __future__ import annotations

import tracemalloc
from itertools import permutations
from math import factorial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import services.explainer.methods.exact as module
from services.explainer.coalitions import all_subsets, shapley_weights
from services.explainer.threads import Threads


def brute_force(function, x, background, weights=None) -> np.ndarray:
    """Shapley values [players, columns] by their definition: the mean of what a player adds over all orders of joining."""
    players = len(x)
    weights = np.full(len(background), 1 / len(background)) if weights is None else weights

    def value(known: frozenset[int]) -> np.ndarray:
        total = 0.0
        for weight, row in zip(weights, background, strict=True):
            mixed = [x[i] if i in known else row[i] for i in range(players)]
            total = total + weight * function(np.array([mixed]))[0]
        return total

    attributions = np.zeros((players, len(value(frozenset()))))
    for order in permutations(range(players)):
        joined: frozenset[int] = frozenset()
        for player in order:
            attributions[player] += value(joined | {player}) - value(joined)
            joined |= {player}
    return attributions / factorial(players)


def interacting(x: np.ndarray) -> np.ndarray:
    """Two columns of an output with products, a maximum and a threshold."""
    a = x[:, 0] * x[:, 1] + np.maximum(x[:, 2], x[:, -1])
    b = np.where(x[:, 0] > 0.3, x[:, 1] ** 2, np.sin(x[:, 2])) - x[:, -1]
    return np.stack([a, b], axis=1)


@pytest.mark.parametrize("players", [3, 4, 5])
async def test_attributions_are_the_mean_over_all_orders_of_joining(lab: SimpleNamespace, players: int) -> None:
    """For a model with interactions, each row's attributions equal those by enumeration of permutations."""
    draw = np.random.default_rng(players)
    background, rows = draw.normal(size=(6, players)), draw.normal(size=(3, players))
    model = lab.FunctionModel(
        lambda given: {"y": interacting(given["x"])}, [("x", "FP64", (-1, players))], [("y", "FP64", (-1, 2))]
    )

    answer = await lab.explain(model, {"x": background}, {"x": rows}, method="exact")

    assert answer.attributions.shape == (3, players, 2)
    for row, attributions in zip(rows, answer.attributions, strict=True):
        assert attributions == pytest.approx(brute_force(interacting, row, background), abs=1e-12)
    assert answer.base_values == pytest.approx(np.broadcast_to(interacting(background).mean(axis=0), (3, 2)), abs=1e-12)
    assert answer.predictions == pytest.approx(interacting(rows), abs=0)
    assert not answer.std_error.any()


async def test_a_linear_model_is_its_weights_times_the_distance_from_the_mean(lab: SimpleNamespace) -> None:
    """phi = w · (x - mean of the background), in closed form, for eight features."""
    draw = np.random.default_rng(8)
    weights, background, rows = draw.normal(size=8), draw.normal(size=(20, 8)), draw.normal(size=(5, 8))
    model = lab.FunctionModel(lambda given: {"y": given["x"] @ weights[:, None] + 3}, [("x", "FP64", (-1, 8))])

    answer = await lab.explain(model, {"x": background}, {"x": rows})

    assert answer.parameters["infermesh_method"] == "exact"
    assert answer.attributions[..., 0] == pytest.approx(weights * (rows - background.mean(axis=0)), abs=1e-12)
    assert answer.additivity_error.max() < 1e-12


async def test_one_feature_gets_all_there_is(lab: SimpleNamespace) -> None:
    """With a single player the attribution is the prediction less the base value."""
    model = lab.FunctionModel(lambda given: {"y": given["x"] ** 2}, [("x", "FP64", (-1, 1))])

    answer = await lab.explain(model, {"x": np.array([[1.0], [3.0]])}, {"x": np.array([[4.0]])})

    assert answer.attributions.tolist() == [[[11.0]]]
    assert answer.feature_names.tolist() == [b"x"]


async def test_no_rows_are_explained_by_no_attributions(lab: SimpleNamespace) -> None:
    """A request of zero rows is answered with tensors of zero rows."""
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})

    for method in ("exact", "permutation"):
        answer = await lab.explain(model, {"x": np.eye(3)}, {"x": np.empty((0, 3))}, method=method)

        assert answer.attributions.shape == (0, 3, 1)
        assert answer.predictions.shape == answer.base_values.shape == (0, 1)
        assert answer.response.model_version == "1"


async def test_a_large_base_value_costs_no_digits(lab: SimpleNamespace) -> None:
    """Attributions of about 1 beside a base value of a billion add up to within 1e-6, a few units of the last place."""
    model = lab.FunctionModel(
        lambda given: {"y": 1e9 + given["x"].sum(axis=1, keepdims=True)}, [("x", "FP64", (-1, 10))]
    )

    answer = await lab.explain(model, {"x": np.zeros((1, 10))}, {"x": np.linspace(0, 1, 10)[None]})

    assert answer.attributions[0, :, 0] == pytest.approx(np.linspace(0, 1, 10), abs=1e-6)


async def test_rows_get_the_same_bits_alone_and_together(lab: SimpleNamespace, monkeypatch) -> None:
    """A row's attributions do not depend on the rows beside it, nor on how values were held and asked for."""
    draw = np.random.default_rng(3)
    background, rows = draw.normal(size=(7, 5)), draw.normal(size=(9, 5))
    model = lab.FunctionModel(
        lambda given: {"y": interacting(given["x"])}, [("x", "FP64", (-1, 5))], [("y", "FP64", (-1, 2))]
    )

    together = await lab.explain(model, {"x": background}, {"x": rows})
    monkeypatch.setattr(module, "GROUP_VALUES", 1)
    alone = await lab.explain(model, {"x": background}, {"x": rows[4:5]}, {"asking": {"max_rows": 13}})

    assert alone.attributions.tobytes() == together.attributions[4:5].tobytes()


async def test_what_is_held_does_not_grow_with_the_columns_of_the_output() -> None:
    """4096 coalitions of 2000 columns are 63 MiB of values: they are worked off in parts, and come to the same."""
    players, columns = 12, 2000
    game = np.random.default_rng(4).normal(size=(2**players, 7))
    columns_of = np.arange(columns) % 7
    threads, asked = Threads(1), []

    class Wide:
        async def of(self, masks: np.ndarray, rows: range) -> np.ndarray:
            asked.append(len(masks))
            return game[masks @ (1 << np.arange(players))][:, columns_of][None]

    shapley_weights(players)  # which all explanations share
    tracemalloc.start()
    found = await module.exact(Wide(), game[0, columns_of], game[-1:, columns_of], players, threads)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    threads.close()

    assert peak < 50 << 20
    assert sum(asked) == 2**players - 2
    assert found.attributions[0] == pytest.approx((shapley_weights(players) @ game)[:, columns_of], abs=1e-12)


# ---- properties of the Shapley value, on games that are tables ------------------------------------------------------

PLAYERS = 4
games = st.lists(st.floats(-100, 100), min_size=2**PLAYERS, max_size=2**PLAYERS).map(np.array)


def attributions_of(game: np.ndarray) -> np.ndarray:
    return shapley_weights(PLAYERS) @ game


@settings(deadline=None)
@given(games)
def test_attributions_add_up_to_what_all_have_more_than_none(game: np.ndarray) -> None:
    """Efficiency."""
    assert attributions_of(game).sum() == pytest.approx(game[-1] - game[0], abs=1e-9)


@settings(deadline=None)
@given(games, games, st.floats(-10, 10))
def test_attributions_are_linear_in_the_model(first: np.ndarray, second: np.ndarray, factor: float) -> None:
    """Linearity."""
    expected = attributions_of(first) + factor * attributions_of(second)

    assert attributions_of(first + factor * second) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(games)
def test_a_player_that_changes_nothing_gets_nothing(game: np.ndarray) -> None:
    """Dummy: values that do not depend on player 2 attribute nothing to it."""
    masks = all_subsets(PLAYERS)
    number = np.arange(2**PLAYERS)
    game = np.where(masks[:, 2], game[number & ~(1 << 2)], game)

    assert attributions_of(game)[2] == pytest.approx(0, abs=1e-9)


@settings(deadline=None)
@given(games)
def test_players_that_do_the_same_get_the_same(game: np.ndarray) -> None:
    """Symmetry: values that stay when players 0 and 1 change places attribute the same to both."""
    number = np.arange(2**PLAYERS)
    swapped = number & ~3 | (number & 1) << 1 | (number & 2) >> 1

    attributions = attributions_of(game + game[swapped])

    assert attributions[0] == pytest.approx(attributions[1], abs=1e-9)
