"""Equal to shap's TreeExplainer, on the margin, for the same trees."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.explainer.graph import ModelGraph
from services.explainer.tree import TreeValues
from services.explainer.tree.shapley import TABLE_PLAYERS
from tests.unit.explainer.tree.random_trees import Leaf, Split, regressor

ROOT = Path(__file__).parents[4]
PYTHON = ROOT / ".venv-shap" / "bin" / "python"


@pytest.fixture(scope="module")
def explained_by_shap(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    assert PYTHON.is_file(), "make test sets up .venv-shap"
    path = tmp_path_factory.mktemp("shap") / "explained.npz"
    subprocess.run([PYTHON, Path(__file__).with_name("explain_by_shap.py"), path], check=True, timeout=120)
    return dict(np.load(path))


def model_of(held: Mapping[str, Any], name: str) -> bytes:
    """The same trees as ONNX, with the covers that shap goes by as hit rates."""
    of = {key: held[f"{name}.{key}"] for key in ("children_left", "children_right", "feature", "threshold", "value")}
    hits = held[f"{name}.weighted_n_node_samples"]
    ordered: list[float] = []

    def tree(first: int, at: int) -> Any:
        node = first + at
        ordered.append(float(hits[node]))
        if of["children_left"][node] < 0:
            return Leaf([float(of["value"][node])])
        # A row in FP32 is below a threshold in FP64 just when it is below that threshold rounded down to FP32.
        threshold = np.float32(of["threshold"][node])
        if threshold > of["threshold"][node]:
            threshold = np.nextafter(threshold, np.float32(-np.inf))
        true = tree(first, int(of["children_left"][node]))
        return Split(
            int(of["feature"][node]),
            "BRANCH_LEQ",
            float(threshold),
            False,
            true,
            tree(first, int(of["children_right"][node])),
        )

    firsts = np.concatenate([[0], np.cumsum(held[f"{name}.sizes"])[:-1]])
    trees = [tree(int(first), 0) for first in firsts]
    constant = [float(held[f"{name}.constant"][0])]
    return regressor(trees, held["rows"].shape[1], hitrates=ordered, base_values=constant)


@pytest.mark.parametrize("algorithm", ["interventional", "path_dependent"])
@pytest.mark.parametrize("name", ["boosting", "forest", "deep"])
def test_the_values_are_those_of_shap(explained_by_shap: Mapping[str, Any], name: str, algorithm: Any) -> None:
    """100 trees of depth 3, and trees so deep that tables are not made for all of their paths."""
    held = explained_by_shap
    rows, background = ({"x": held[key].astype(np.float32)} for key in ("rows", "background"))
    graph = ModelGraph.read(model_of(held, name))
    players = {"x": np.arange(held["rows"].shape[1])}

    prepared = TreeValues(graph, background, np.full(100, 0.01), players, algorithm=algorithm)
    explained = prepared.of(rows)

    assert explained.covers == ("graph" if algorithm == "path_dependent" else "")
    assert name != "deep" or prepared.longest_path > max(TABLE_PLAYERS.values())
    expected = held[f"{name}.{algorithm}"]
    np.testing.assert_allclose(explained.attributions[:, :, 0], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(explained.base, held[f"{name}.{algorithm}.base"], rtol=0, atol=1e-5)
