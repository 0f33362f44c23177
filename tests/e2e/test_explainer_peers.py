"""The peers of the explainer's benchmark: shap round our predictor attributes what we do, within its error and ours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.explainer_beside import beside
from benchmarks.explainer_cost import EVALS, PYTHON, Ask, Servers, exact, ours, peer, rmse, served, sought
from benchmarks.tree_shap import Tensors, draw

ROWS = 2


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with served() as servers:
        yield servers


@pytest.fixture(scope="module")
def rows() -> Tensors:
    return draw(np.random.default_rng(1), ROWS)


@pytest.fixture(scope="module")
def true(servers: Servers, rows: Tensors) -> NDArray[np.float64]:
    """By all coalitions."""
    return exact(servers, rows)


@pytest.fixture(scope="module")
def ask(servers: Servers, rows: Tensors) -> Iterator[Ask]:
    assert PYTHON.is_file(), "make test sets up .venv-shap"
    with peer(servers, rows) as (_, ask):
        yield ask


def scale(true: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(true**2)))


@pytest.mark.parametrize("method", ["permutation", "kernel"])
def test_ours_is_close_to_the_exact_attributions_with_a_tenth_of_the_rows(
    servers: Servers, rows: Tensors, true: NDArray[np.float64], method: str
) -> None:
    """The benchmark's evaluations: the error is under a fifth of what attributions are, and no more rows are asked about than a
    background for each evaluation, beside the background itself; the predictor counts few calls."""
    found = ours(servers, rows, sought(method, 0, EVALS[method]))

    assert found.values.shape == true.shape == (ROWS, 12)
    assert rmse(found, true) < scale(true) / 5
    assert found.rows <= EVALS[method] * 100 * ROWS + 200
    assert found.calls <= 20


@pytest.mark.parametrize(
    "method",
    ["kernel", pytest.param("permutation", marks=pytest.mark.long)],  # it is compiled first, which takes longer
)
def test_shap_attributes_the_same(ask: Ask, true: NDArray[np.float64], method: str) -> None:
    """Codes become the texts again, and columns their inputs: else nothing would be near. Its batches hold many of our rows."""
    found = ask(method, 0, ROWS)

    assert rmse(found, true) < scale(true) / 5
    assert found.calls >= 2 * ROWS
    assert found.rows > 8 * EVALS[method] * 100 * ROWS


@pytest.mark.long
def test_two_methods_of_shap_agree_with_each_other(ask: Ask) -> None:
    """With and without its selection of features, one row is attributed alike."""
    some, every = ask("kernel", 0, 1), ask("kernel-all", 0, 1)

    assert np.abs(some.values - every.values).max() < 0.02
    assert not np.array_equal(some.values, every.values)
    assert (every.values != 0).sum() >= (some.values != 0).sum()


def test_predictions_go_on_beside_explanations(servers: Servers, rows: Tensors) -> None:
    """The benchmark of their latency: there are some, alone and beside explanations, which come about too."""
    alone, both = beside(servers, rows, 0.1, evaluations=None), beside(servers, rows, 0.1)

    assert alone.predictions and not alone.explanations
    assert both.predictions and both.explanations
    assert 0 < both.p50 <= both.p99 <= both.worst
