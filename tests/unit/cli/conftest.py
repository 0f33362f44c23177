"""A real predictor for the commands to ask, with the sample models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infermesh.cli.main import app
from infermesh.cli.processes import Mesh, samples_folder

Invoke = Callable[..., "Outcome"]


class Outcome:
    """What a command did: its exit status, and what it wrote to each stream."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err


@pytest.fixture(scope="session")
def predictor_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration folder that has a predictor alone."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "predictor.yaml").write_text(f"repository: {{root: {samples_folder() / 'models'}}}\n")
    return folder


@pytest.fixture(scope="session")
def predictor(predictor_config: Path) -> Iterator[str]:
    """The address of a predictor that serves the samples."""
    with Mesh(config=predictor_config, services=["predictor"]) as mesh:
        yield mesh.address("predictor")


@pytest.fixture
def infermesh(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs the command in this process; the environment has no target and no key."""
    for name in [name for name in os.environ if name.startswith("INFERMESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("infermesh.cli.console.out.width", 200)

    def invoke(*words: str, stdin: str = "") -> Outcome:
        result = CliRunner().invoke(app, [str(word) for word in words], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return invoke
