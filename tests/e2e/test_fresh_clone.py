"""What a stranger does: a clone in an empty folder, and one command."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP_S = 180.0  # from the clone to the first prediction
START_S = 15.0  # the same, once it is set up


@pytest.mark.long
def test_a_fresh_clone_shows_predictions_with_one_command(tmp_path: Path) -> None:
    """`make demo` in a fresh clone sets itself up, answers for every sample model, and ends with status 0; again in seconds."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)

    for limit_s in (SETUP_S, START_S):
        began = time.monotonic()
        done = subprocess.run(["make", "demo"], cwd=clone, capture_output=True, text=True, timeout=600, check=False)
        took = time.monotonic() - began

        assert done.returncode == 0, done.stdout + done.stderr
        assert all(model in done.stdout for model in ("iris", "breast-cancer", "fraud-detector"))
        print(f"make demo: {took:.1f} s (of {limit_s:g} s, drain included)")
    packages = {path.name.split("-")[0] for path in clone.glob(".venv-run/lib/*/site-packages/*.dist-info")}
    assert not packages & {"scikit_learn", "ruff", "mypy", "grpcio_tools", "pytest"}, "the runtime alone is installed"
