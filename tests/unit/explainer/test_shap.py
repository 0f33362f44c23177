"""Beside shap, which lives in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import InvalidRequest
from infermesh.explanation import to_shap

ROOT = Path(__file__).parents[3]
SHAP = ROOT / ".venv-shap" / "bin" / "python"

ADAPTOR = """
import sys

import matplotlib
import numpy as np
import shap
from matplotlib import pyplot
from infermesh.explanation import to_shap
from infermesh.protocol.open_inference_pb2 import ModelInferResponse

folder = sys.argv[1]
response = ModelInferResponse.FromString(open(folder + "/response", "rb").read())
rows = np.load(folder + "/rows.npy")
everything = shap.Explanation(**to_shap(response, rows))
assert everything.shape == (4, 3, 2), everything.shape
assert everything.feature_names == ["a", "b", "c"], everything.feature_names
assert everything.output_names == ["low", "high"], everything.output_names
one = shap.Explanation(**to_shap(response, rows, "high"))
assert np.array_equal(everything[..., 1].values, one.values)
assert one.abs.mean(0).shape == (3,)
assert np.allclose(one.base_values + one.values.sum(axis=1), (rows * [1, 2, 4]).sum(axis=1))
assert one[0].data.tolist() == rows[0].tolist()
matplotlib.use("agg")
for plot, given in ((shap.plots.waterfall, one[0]), (shap.plots.beeswarm, one), (shap.plots.bar, one)):
    plot(given, show=False)
    pyplot.close("all")
print("ok")
"""

ORACLE = """
import sys

import numpy as np
import shap

folder = sys.argv[1]
background, rows = np.load(folder + "/background.npy"), np.load(folder + "/rows.npy")


def answers(x):
    a = x[:, 0] * x[:, 1] + np.maximum(x[:, 2], x[:, -1])
    b = np.where(x[:, 0] > 0.3, x[:, 1] ** 2, np.sin(x[:, 2])) - x[:, -1]
    return 1 / (1 + np.exp(-np.stack([a, b], axis=1)))


masker = shap.maskers.Independent(background, max_samples=len(background))
if sys.argv[2] == "identity":
    found = shap.explainers.ExactExplainer(answers, masker)(rows)
    base, values = found.base_values, found.values
else:
    explainer = shap.KernelExplainer(answers, background, link="logit")
    values = explainer.shap_values(rows, nsamples=2**rows.shape[1], l1_reg=0, silent=True)
    base = np.tile(explainer.expected_value, (len(rows), 1))
np.savez(folder + "/found.npz", base=base, values=values)
"""


def beside_shap(code: str, *arguments: str) -> str:
    interpreted = {**os.environ, "NUMBA_DISABLE_JIT": "1"}  # compiling takes ten times as long as six features do
    done = subprocess.run(
        [SHAP, "-c", code, *arguments],
        cwd=ROOT,
        env=interpreted,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def interacting(x: np.ndarray) -> np.ndarray:
    a = x[:, 0] * x[:, 1] + np.maximum(x[:, 2], x[:, -1])
    b = np.where(x[:, 0] > 0.3, x[:, 1] ** 2, np.sin(x[:, 2])) - x[:, -1]
    return 1 / (1 + np.exp(-np.stack([a, b], axis=1)))


@pytest.mark.parametrize("link", ["identity", "logit"])
async def test_attributions_are_those_of_shap(lab: SimpleNamespace, tmp_path: Path, link: str) -> None:
    """Six features that interact, two outputs: equal to its ExactExplainer within 1e-6, and with link logit to its
    KernelExplainer over all coalitions; by `exact` and by `kernel` over all coalitions."""
    draw = np.random.default_rng(0)
    background, rows = draw.normal(size=(20, 6)), draw.normal(size=(5, 6))
    np.save(tmp_path / "background.npy", background)
    np.save(tmp_path / "rows.npy", rows)
    model = lab.FunctionModel(
        lambda given: {"y": interacting(given["x"])}, [("x", "FP64", (-1, 6))], [("y", "FP64", (-1, 2))]
    )

    beside_shap(ORACLE, str(tmp_path), link)
    shap = np.load(tmp_path / "found.npz")

    for method in ("exact", "kernel"):
        answer = await lab.explain(model, {"x": background}, {"x": rows}, method=method, max_evals=64, link=link)
        assert answer.attributions == pytest.approx(shap["values"], abs=1e-6)
        assert answer.base_values == pytest.approx(np.broadcast_to(shap["base"], (5, 2)), abs=1e-6)


async def test_an_answer_becomes_an_explanation_of_shap(lab: SimpleNamespace, tmp_path: Path) -> None:
    """In its own environment, from the bytes of a response."""
    response, rows = await _explained(lab)
    (tmp_path / "response").write_bytes(response.SerializeToString())
    np.save(tmp_path / "rows.npy", rows)

    assert beside_shap(ADAPTOR, str(tmp_path)).strip() == "ok"


async def test_what_is_no_explanation_or_does_not_fit_is_refused(lab: SimpleNamespace) -> None:
    """With what would be right."""
    response, rows = await _explained(lab)

    with pytest.raises(InvalidRequest, match=r"data: expected \[4, 3\], a column for each feature, got \[4, 2\]"):
        to_shap(response, rows[:, :2])
    with pytest.raises(InvalidRequest, match='output: expected one of low, high, or its number, got "middle"'):
        to_shap(response, rows, "middle")
    with pytest.raises(InvalidRequest, match="or its number, got 2"):
        to_shap(response, rows, 2)
    del response.outputs[0], response.raw_output_contents[0]
    with pytest.raises(InvalidRequest, match="attributions is not there"):
        to_shap(response)


async def test_one_output_needs_no_name_and_errors_come_along_when_there_are_some(lab: SimpleNamespace) -> None:
    """Two dimensions, as the plots take them."""
    response, rows = await _explained(lab, classes=1)
    sampled, _ = await _explained(lab, classes=1, method="permutation", max_evals=100)

    assert to_shap(response, rows)["values"].shape == (4, 3)
    assert to_shap(response)["output_names"] == "high"
    assert "error_std" not in to_shap(response)
    assert json.dumps(to_shap(sampled)["feature_names"]) == '["a", "b", "c"]'


async def _explained(lab: SimpleNamespace, **asked: Any) -> tuple[Any, np.ndarray]:
    model = lab.FunctionModel(
        lambda given: {"y": np.stack([given["x"][:, 0], (given["x"] * [1, 2, 4]).sum(axis=1)], axis=1)},
        outputs=[("y", "FP64", (-1, 2))],
        properties={"infermesh.columns.x": ["a", "b", "c"], "infermesh.classes": ["low", "high"]},
    )
    rows = np.random.default_rng(1).normal(size=(4, 3))
    service = lab.explainer(model, {"x": np.random.default_rng(2).normal(size=(10, 3))})
    return await service.infer(lab.request_of({"x": rows}, **asked), Call()), rows
