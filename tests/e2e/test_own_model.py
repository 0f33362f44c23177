"""The recipe "Your own model" of the README, followed word by word: its YAML is taken from there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from e2e_door import KEY, NO_LIMIT, SAMPLES, VARIANT, Door, golden, request_of

from infermesh.cli.processes import Mesh

ROOT = Path(__file__).parents[2]
MODEL = "churn"
CALLS = 100  # a canary of 10 % is met by none of them once in 40,000 times


def test_a_model_of_ones_own_gets_a_canary(tmp_path: Path) -> None:
    """Served at once; pinned by its route; the second version is loaded without a call for it, and then gets its share."""
    route, canary = recipe()
    models, config = tmp_path / "models", shutil.copytree(SAMPLES / "config", tmp_path / "config")
    put(models, version="1")
    background = {"INFERMESH_EXPLAINER__BACKGROUNDS__ROOT": str(SAMPLES / "backgrounds")}
    with Mesh(config=config, models=models, env={**NO_LIMIT, "explainer": background}) as mesh:
        door = Door(mesh.address("gateway"))
        assert ask(door) == ("1", "default")

        add(config / "routes.yaml", route)
        eventually(lambda: ask(door) == ("1", "stable"))

        put(models, version="2")
        load(mesh)
        assert {ask(door) for _ in range(20)} == {("1", "stable")}

        add(config / "routes.yaml", canary, after=route)
        eventually(lambda: ("2", "canary") in {ask(door) for _ in range(CALLS)})
        assert {ask(door) for _ in range(CALLS)} == {("1", "stable"), ("2", "canary")}
        door.close()


def recipe() -> tuple[str, str]:
    """The README's route without its canary line, and that line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    *route, canary = block[1].splitlines(keepends=True)
    assert "canary" in canary
    assert f"infermesh models load {MODEL} --key {KEY}" in text
    return "".join(route), canary


def put(models: Path, version: str) -> None:
    """Put a version of the user's own model into the repository."""
    folder = models / MODEL / version
    folder.mkdir(parents=True)
    shutil.copy(SAMPLES / "models" / "iris" / version / "model.onnx", folder / "model.onnx")


def add(file: Path, lines: str, after: str = "routes:\n") -> None:
    """Write lines into a file of routes."""
    text = file.read_text(encoding="utf-8")
    assert text.count(after) == 1
    file.write_text(text.replace(after, after + lines), encoding="utf-8")


def load(mesh: Mesh) -> None:
    """`infermesh models load`, as the README has it."""
    words = ["models", "load", MODEL, "--key", KEY, "--target", mesh.address("gateway")]
    env = {name: value for name, value in os.environ.items() if not name.startswith("INFERMESH_")}
    done = subprocess.run(
        [sys.executable, "-m", "infermesh.cli.main", *words],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{MODEL} is loaded\n"), done.stderr


def ask(door: Door) -> tuple[str, str]:
    """The version and variant that answered."""
    response = door.infer(request_of(MODEL, golden("iris")[1]["inputs"]))
    return response.model_version, response.parameters[VARIANT].string_param


def eventually(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until the gateway has taken a file over."""
    end, pause = time.monotonic() + timeout_s, threading.Event()
    while not true():
        assert time.monotonic() < end, "it did not become true in time"
        pause.wait(0.05)
