"""`infermesh infer` as a user starts it, at the public door: golden values, explanations, and what a mistake looks like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_door import KEY, VARIANT, golden

from infermesh.cli.processes import Mesh

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("INFERMESH_")}
# One case of several rows for each version that callers can ask for.
CASES = [
    (model, version, next(case for case in golden(model) if case["version"] == version))
    for model, version in (("iris", "1"), ("iris", "2"), ("breast-cancer", "1"), ("fraud-detector", "1"), ("fraud-detector", "2"),
                           ("credit-score", "1"), ("credit-score", "2"))
]  # fmt: skip


def infer(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """`infermesh infer` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "infermesh.cli.main", "infer", *words], cwd=ROOT, env={**ENVIRONMENT, "COLUMNS": "120"},
        input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("model", "version", "case"), CASES, ids=[f"{m}-{v}" for m, v, _ in CASES])
def test_the_answer_is_scikit_learns_own(mesh: Mesh, model: str, version: str, case: dict[str, Any]) -> None:
    """JSON in, JSON out: every label, and every probability to 1e-5, is what scikit-learn answered."""
    request = {"inputs": case.get("request") or case["inputs"]}

    done = infer(
        model, "--file", "-", "--raw-json", "--version", version, "--key", KEY, "--target", mesh.address("gateway"),
        stdin=json.dumps(request),
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["model_name"], answer["model_version"]) == (model, version)
    assert answer["parameters"][VARIANT]
    check(answer, case)


@pytest.mark.parametrize("model", ["iris", "breast-cancer", "fraud-detector", "credit-score"])
def test_words_do_as_well(mesh: Mesh, model: str) -> None:
    """name=value pairs without a version get the right answer of whichever version the route chose."""
    first = golden(model)[1]
    tensors = first.get("request") or first["inputs"]
    words = [f"{tensor['name']}={','.join(map(str, tensor['data']))}" for tensor in tensors]

    done = infer(model, *words, "--raw-json", "--key", KEY, "--target", mesh.address("gateway"))

    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    check(answer, next(case for case in golden(model)
                       if (case.get("request") or case["inputs"]) == tensors
                       and case["version"] == answer["model_version"]))  # fmt: skip


def test_an_explanation_is_drawn(mesh: Mesh) -> None:
    """--explain shows the looked-up features by name beside their part of the prediction; as JSON, its parts add up."""
    case = golden("fraud-detector")[1]
    words = [f"{tensor['name']}={tensor['data'][0]}" for tensor in case["request"]]
    where = ["--version", "1", "--key", KEY, "--target", mesh.address("gateway")]

    drawn = infer("fraud-detector", *words, "--explain", "--output", "fraud", *where)
    raw = infer("fraud-detector", *words, "--explain", "--raw-json", *where)

    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert f"prediction {case['outputs']['probabilities']['data'][1]:.4f}" in drawn.stdout
    assert "merchant_category" in drawn.stdout
    assert "card_age_days" in drawn.stdout
    outputs = {each["name"]: np.reshape(each["data"], each["shape"]) for each in json.loads(raw.stdout)["outputs"]}
    total = outputs["base_values"] + outputs["attributions"].sum(axis=1)
    np.testing.assert_allclose(total, outputs["predictions"], atol=1e-9)
    np.testing.assert_allclose(outputs["predictions"].ravel(), case["outputs"]["probabilities"]["data"], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "status", "error", "hint"),
    [
        (["iris", "features=1,2,3,4"], 1, "UNAUTHENTICATED: ", "give an API key by --key or in INFERMESH_KEY"),
        (["iris", "features=1,2,3,4", "--key", "wrong"], 1, "UNAUTHENTICATED: ", "give an API key by --key"),
        (["nobody", "a=1", "--key", KEY], 1, 'NOT_FOUND: model "nobody"', "`infermesh models ls` lists"),
        (["breast-cancer", "patient_id=nobody", "--key", KEY], 1, "FAILED_PRECONDITION: ", ""),
        (["iris", "features=1,2", "--key", KEY], 2, "row 1: expected 4 values", ""),
    ],
    ids=["no key", "wrong key", "unknown model", "unknown patient", "too few values"],
)
def test_a_mistake_is_one_line(mesh: Mesh, words: list[str], status: int, error: str, hint: str) -> None:
    """What was wrong is one line on standard error, with a hint where one helps; nothing goes to standard output."""
    done = infer(*words, "--target", mesh.address("gateway"))

    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (status, "")
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    assert len(lines) == 1 + any(line.startswith("hint: ") for line in lines)
    assert hint in lines[-1]


def check(answer: dict[str, Any], case: dict[str, Any]) -> None:
    """Fail unless the outputs are the golden ones."""
    outputs = {each["name"]: each for each in answer["outputs"]}
    assert outputs["label"]["data"] == case["outputs"]["label"]["data"]
    right = case["outputs"]["probabilities"]
    assert outputs["probabilities"]["shape"] == right["shape"]
    np.testing.assert_allclose(outputs["probabilities"]["data"], right["data"], rtol=0, atol=1e-5)
