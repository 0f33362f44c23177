"""KServe's InferenceGRPCClient, in an environment and a process of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from e2e_door import KEY, SAMPLES

from infermesh.cli.processes import Mesh

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-kserve" / "bin" / "python"
SCRIPT = Path(__file__).with_name("kserve_calls.py")


@pytest.mark.long
@pytest.mark.parametrize("hop", ["gateway", "predictor"])
def test_kserve_s_client_is_served(mesh: Mesh, hop: str) -> None:
    """Health, golden values raw and typed, calls at once and a refusal."""
    assert PYTHON.is_file(), "make verify sets up .venv-kserve"

    done = subprocess.run(
        [str(PYTHON), str(SCRIPT), mesh.address(hop), KEY, str(SAMPLES / "golden")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"checks": 4, "failed": []}
