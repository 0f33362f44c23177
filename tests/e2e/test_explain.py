"""`infermesh explain` at the public door: the sample that has reasons, entity ids in, sentences and a page out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from e2e_door import KEY, SAMPLES, golden

from infermesh.cli.processes import Mesh

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("INFERMESH_")}
REQUEST = str(SAMPLES / "requests" / "credit-score.json")


def explain(mesh: Mesh, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "infermesh.cli.main", "explain", *words, "--key", KEY]
    return subprocess.run(
        [*command, "--target", mesh.address("gateway")],
        cwd=ROOT,
        env={**ENVIRONMENT, "COLUMNS": "120"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_customer_is_told_why(mesh: Mesh, version: str) -> None:
    """Features from the store stand beside those of the request, with their values; the reasons are the model's own sentences."""
    done = explain(
        mesh, "credit-score", "--file", REQUEST, "--version", version, "--classes", "defaulted", "--reasons", "4"
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "defaulted: base value" in done.stdout
    assert "credit_utilisation" in done.stdout
    reasons = done.stdout.split("reasons: what raised defaulted\n")[1].strip().splitlines()
    assert [line.strip()[:2] for line in reasons] == ["1.", "2.", "3.", "4."]
    assert "Proportion of balances to credit limits is too high (0.86)" in reasons[0]


def test_trees_are_explained_from_their_file(mesh: Mesh) -> None:
    """Exactly, in log-odds, and so that they add up to what the model answered."""
    done = explain(mesh, "credit-score", "--file", REQUEST, "--version", "2", "--method", "tree", "--raw-json")

    answer = json.loads(done.stdout)
    outputs = {each["name"]: np.reshape(each["data"], each["shape"]) for each in answer["outputs"]}
    total = outputs["base_values"] + outputs["attributions"].astype(float).sum(axis=1)
    assert answer["parameters"]["infermesh_method"] == "tree"
    np.testing.assert_allclose(total, outputs["predictions"].astype(float), atol=1e-9)
    assert not outputs["std_error"].astype(float).any()


def test_many_customers_as_a_page(mesh: Mesh, tmp_path: Path) -> None:
    """One file that needs nothing else."""
    case = next(case for case in golden("credit-score") if case["version"] == "1")
    columns = {tensor["name"]: tensor["data"][0] for tensor in case["request"]}
    many = {name: [[value]] * 6 for name, value in columns.items()}
    file = tmp_path / "why.html"

    done = explain(
        mesh, "credit-score", "--file", "-", "--html", str(file), "--method", "linear", stdin=json.dumps(many)
    )

    text = file.read_text(encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "")
    assert "All 6 rows" in text
    assert "default: 100 rows of credit-score.json" in text
    assert "<script src" not in text


def test_reasons_are_about_what_is_drawn(mesh: Mesh) -> None:
    """The likeliest class is the one that the reasons are not about; bars of it would contradict them."""
    done = explain(mesh, "credit-score", "--file", REQUEST, "--version", "1", "--method", "linear", "--reasons", "1")

    lines = [line.strip() for line in done.stdout.splitlines()]
    assert any(line.startswith("defaulted: base value") for line in lines)
    bars, reasons = done.stdout.split("reasons: what raised defaulted")
    amount = next(line for line in bars.splitlines() if line.startswith("credit_utilisation")).split()[-1]
    assert amount.startswith("+")
    assert "balances to credit limits is too high" in reasons


def test_better_and_better_answers(mesh: Mesh) -> None:
    """The last one is what a call without a stream gets; what is no terminal is told nothing before it."""
    words = ["credit-score", "--file", REQUEST, "--version", "1", "--method", "permutation", "--max-evals", "4000"]

    streamed, at_once = explain(mesh, *words, "--stream"), explain(mesh, *words)

    assert (streamed.returncode, streamed.stderr) == (0, "")
    assert streamed.stdout.splitlines()[1:] == at_once.stdout.splitlines()[1:]  # the first line has the time


def test_a_terminal_sees_them(mesh: Mesh) -> None:
    """Each in the place of the one before, and in the end the last alone."""
    words = ["credit-score", "--file", REQUEST, "--version", "1", "--method", "permutation", "--max-evals", "20000"]
    command = [sys.executable, "-m", "infermesh.cli.main", "explain", *words, "--stream", "--key", KEY]
    master, slave = os.openpty()
    with subprocess.Popen(
        [*command, "--target", mesh.address("gateway")],
        cwd=ROOT,
        env={**ENVIRONMENT, "COLUMNS": "100", "LINES": "40", "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    ) as running:
        os.close(slave)
        seen = b"".join(iter(lambda: _read(master), b"")).decode()
        assert running.wait(60) == 0, seen
    os.close(master)

    assert seen.count("not converged") >= 1
    assert "not converged" not in seen[seen.rindex("evaluations a row") :]
    assert "\x1b[2K" in seen  # lines are taken away again


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux has this for a terminal whose other end is closed
        return b""


def test_no_rows(mesh: Mesh, tmp_path: Path) -> None:
    """Are no mistake, on the terminal and as a page."""
    none = json.dumps({"inputs": [{"name": "features", "datatype": "FP32", "shape": [0, 4], "data": []}]})
    file = tmp_path / "why.html"

    for words in ([], ["--html", str(file), "--reasons", "2"]):
        done = explain(mesh, "iris", "--json", none, *words)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr

    assert "There are no rows." in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (["credit-score"], 2, "no inputs are given; credit-score takes"),
        (
            ["credit-score", "--file", REQUEST, "--method", "magic"],
            1,
            'parameter "method": expected one of auto, exact',
        ),
        (["credit-score", "--file", REQUEST, "--classes", "nobody"], 1, 'parameter "classes": expected'),
        (
            ["credit-score", "--file", REQUEST, "--reasons", "4", "--adverse", "left"],
            1,
            'parameter "adverse": expected one of up',
        ),
        (["credit-score", "--file", REQUEST, "--html", "/nowhere/why.html"], 2, "No such file or directory"),
    ],
    ids=["nothing", "method", "class", "direction", "folder"],
)
def test_a_mistake_is_told(mesh: Mesh, words: list[str], status: int, error: str) -> None:
    done = explain(mesh, *words)

    assert done.returncode == status
    assert error in done.stderr
    assert "Traceback" not in done.stderr
