"""TreeSHAP against the definition of Shapley values, coalition by coalition, on random ensembles."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.explainer.graph import ModelGraph
from services.explainer.tree import TreeAnswer, shapley, tree_values
from tests.unit.explainer.tree.random_trees import (
    MODES,
    covers,
    draw_rows,
    draw_tree,
    interventional,
    path_dependent,
    regressor,
)
from tests.unit.explainer.tree.random_trees import shapley as by_definition

seeds = st.integers(0, 2**32 - 1)
FEATURES = 6


class Case:
    """An ensemble, three rows to explain, a weighted background, and players of which some have several columns."""

    def __init__(self, seed: int, *, modes: tuple[str, ...] = MODES, missing: float = 0.1, depth: int = 5) -> None:
        random = np.random.default_rng(seed)
        self.targets = int(random.integers(1, 4))
        self.trees = [
            draw_tree(random, FEATURES, depth, self.targets, modes) for _ in range(int(random.integers(1, 4)))
        ]
        self.rows = draw_rows(random, 3, FEATURES, missing)
        self.background = draw_rows(random, 5, FEATURES, missing)
        weights = random.integers(1, 4, 5).astype(float)
        self.weights = weights / weights.sum()
        self.of_column = np.array([0, 1, 2, 3, 2, 0]) if random.random() < 0.5 else np.arange(FEATURES)
        self.players = int(self.of_column.max()) + 1
        self.graph = ModelGraph.read(regressor(self.trees, FEATURES, self.targets))

    def explain(self, **options: Any) -> TreeAnswer:
        return tree_values(
            self.graph,
            {"x": self.rows},
            {"x": self.background},
            self.weights,
            {"x": self.of_column},
            **options,
        )


@pytest.mark.parametrize("table_players", [0, 8], ids=["polynomial", "tables"])
@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_the_interventional_values_are_those_of_the_definition(table_players: int, seed: int) -> None:
    """Repeated features, all modes, NaN, weights, several scores and players of several columns; both ways of working."""
    case = Case(seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(shapley.TABLE_PLAYERS, "interventional", table_players)
        explained = case.explain(algorithm="interventional")

    for row, attributions in zip(case.rows, explained.attributions, strict=True):
        game = interventional(case.trees, row, case.background, case.weights, case.of_column)
        np.testing.assert_allclose(attributions, by_definition(game, case.players), rtol=0, atol=1e-12)
        np.testing.assert_allclose(explained.base, game(set()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("table_players", [0, 8], ids=["polynomial", "tables"])
@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_the_path_dependent_values_are_those_of_the_definition(table_players: int, seed: int) -> None:
    """With covers counted from the background, among them those of nodes where no row of it comes."""
    case = Case(seed)
    counted = [covers(tree, case.background, case.weights) for tree in case.trees]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(shapley.TABLE_PLAYERS, "path_dependent", table_players)
        explained = case.explain(algorithm="path_dependent")

    assert explained.covers == "background"
    for row, attributions in zip(case.rows, explained.attributions, strict=True):
        game = path_dependent(case.trees, row, counted, case.of_column)
        np.testing.assert_allclose(attributions, by_definition(game, case.players), rtol=0, atol=1e-12)
        np.testing.assert_allclose(explained.base, game(set()), rtol=0, atol=1e-12)


def test_hit_rates_that_tell_nothing_are_passed_over() -> None:
    """Converters that have no counts write 1 for every node."""
    case = Case(4)
    nodes = sum(len(covers(tree, case.background, case.weights)) for tree in case.trees)
    assert nodes > len(case.trees)

    counted = case.explain(algorithm="path_dependent")
    case.graph = ModelGraph.read(regressor(case.trees, FEATURES, case.targets, hitrates=[1.0] * nodes))
    of_ones = case.explain(algorithm="path_dependent")

    assert of_ones.covers == "background"
    np.testing.assert_array_equal(of_ones.attributions, counted.attributions)


@pytest.mark.parametrize("algorithm", ["interventional", "path_dependent"])
@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_attributions_add_up_to_the_margin_that_the_runtime_answers(algorithm: Any, seed: int) -> None:
    case = Case(seed)

    explained = case.explain(algorithm=algorithm)

    error = np.abs(explained.base + explained.attributions.sum(axis=1) - explained.margin)
    assert (error <= 1e-9 * np.maximum(1, np.abs(explained.attributions).sum(axis=1))).all()
    session = onnxruntime.InferenceSession(regressor(case.trees, FEATURES, case.targets))
    (answered,) = session.run(None, {"x": case.rows})
    np.testing.assert_allclose(explained.probability, answered, rtol=0, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["interventional", "path_dependent"])
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_a_feature_that_no_split_is_on_gets_nothing(algorithm: Any, seed: int) -> None:
    case = Case(seed)
    case.trees = [draw_tree(np.random.default_rng(seed), 3, 5, 1, MODES)]
    case.of_column = np.arange(FEATURES)
    case.graph = ModelGraph.read(regressor(case.trees, FEATURES))

    explained = case.explain(algorithm=algorithm)

    assert not explained.attributions[:, 3:].any()


@pytest.mark.parametrize("algorithm", ["interventional", "path_dependent"])
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_attributions_of_a_sum_of_trees_are_the_sums_of_theirs(algorithm: Any, seed: int) -> None:
    case = Case(seed)

    together = case.explain(algorithm=algorithm).attributions
    apart = np.zeros_like(together)
    for tree in case.trees:
        case.graph = ModelGraph.read(regressor([tree], FEATURES, case.targets))
        alone = case.explain(algorithm=algorithm).attributions
        apart += alone

    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-12)


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_features_that_do_the_same_get_the_same(seed: int) -> None:
    """Every tree comes twice, the second time with features 0 and 1 for each other; the rows have one value for both."""
    random = np.random.default_rng(seed)
    case = Case(seed)
    case.of_column = np.arange(FEATURES)
    state = random.bit_generator.state
    tree = draw_tree(random, FEATURES, 5, 1, MODES)
    random.bit_generator.state = state
    other = draw_tree(random, FEATURES, 5, 1, MODES)
    _exchange(other)
    case.rows[:, 1], case.background[:, 1] = case.rows[:, 0], case.background[:, 0]
    case.graph = ModelGraph.read(regressor([tree, other], FEATURES))

    explained = case.explain(algorithm="interventional")

    np.testing.assert_allclose(explained.attributions[:, 0], explained.attributions[:, 1], rtol=0, atol=1e-12)


def _exchange(tree: Any) -> None:
    if hasattr(tree, "feature"):
        tree.feature = {0: 1, 1: 0}.get(tree.feature, tree.feature)
        _exchange(tree.true)
        _exchange(tree.false)
