"""tritonclient, the strictest common client, in an environment and a process of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from e2e_door import KEY, SAMPLES

from infermesh.cli.processes import Mesh

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-triton" / "bin" / "python"
SCRIPT = Path(__file__).with_name("tritonclient_calls.py")


@pytest.mark.parametrize("hop", ["gateway", "transformer", "predictor"])
def test_tritonclient_is_served(mesh: Mesh, hop: str) -> None:
    """Health, metadata, repository, golden values, errors and streams, by its sync and aio clients."""
    assert PYTHON.is_file(), "make test sets up .venv-triton"

    done = subprocess.run(
        [str(PYTHON), str(SCRIPT), mesh.address(hop), KEY, str(SAMPLES / "golden")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == []
