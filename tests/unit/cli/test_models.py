"""`infermesh models`: list, show, load, unload and profile the models of a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infermesh.cli.processes import Mesh, samples_folder

IRIS = "features=5.9,3.0,5.1,1.8"


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, profiles: Path) -> Iterator[str]:
    """The address of a predictor with a model that has a configuration, and one that does not load."""
    root, config = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("config")
    shutil.copytree(samples_folder() / "models/iris", root / "iris")
    (root / "iris/config.yaml").write_text(
        "labels: {stable: 1}\nversions: {latest: 2}\nbatching: {enabled: true, max_rows: 32}\n"
    )
    (root / "broken/1").mkdir(parents=True)
    (root / "broken/1/model.onnx").write_bytes(b"no model")
    (config / "predictor.yaml").write_text(f"repository: {{root: {root}}}\nexecution: {{profile_folder: {profiles}}}\n")
    with Mesh(config=config, services=["predictor"]) as mesh:
        yield mesh.address("predictor")


def test_the_list_has_states_and_reasons(infermesh: Any, served: str) -> None:
    """Every version has a row; one that can't be used says why."""
    listed = infermesh("models", "ls", "--target", served)
    ready = infermesh("models", "ls", "--ready", "--target", served)

    assert listed.status == 0
    assert "model.onnx is no ONNX model" in next(line for line in listed.out.splitlines() if "broken" in line)
    assert "broken" not in ready.out and "iris" in ready.out


def test_a_long_reason_is_wrapped_in_its_column(infermesh: Any, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a narrow terminal nothing of a reason is lost, and names and states stay whole."""
    monkeypatch.setattr("infermesh.cli.console.out.width", 60)

    lines = infermesh("models", "ls", "--target", served).out.splitlines()

    first = next(at for at, line in enumerate(lines) if "broken" in line)
    assert "UNAVAILABLE" in lines[first]
    told = " ".join(line[lines[first].index("model.onnx") :].strip() for line in lines[first : first + 4])
    assert "corrupt, or copied incompletely" in told


def test_a_model_is_shown(infermesh: Any, served: str) -> None:
    """Tensors, versions, labels, how it is served, and what it has done."""
    infermesh("infer", "iris", IRIS, "--target", served)

    shown = infermesh("models", "show", "iris", "--target", served)

    assert shown.status == 0
    rows = [line.split() for line in shown.out.splitlines()]
    assert ["versions", "1,", "2"] in rows
    assert ["labels", "stable", "→", "1"] in rows
    assert ["version", "policy", "the", "newest", "2"] in rows
    assert ["batching", "up", "to", "32", "rows"] in rows
    assert ["features", "FP32", "[?,", "4]"] in rows
    assert ["probabilities", "FP32", "[?,", "3]"] in rows
    (counts,) = (row for row in rows if row[:1] == ["2"] and len(row) > 8)
    assert int(counts[1]) >= 1 and counts[2] == "0"


def test_one_version_is_shown_by_its_label(infermesh: Any, served: str) -> None:
    """`--version` takes a number or a label; the statistics are of that version alone."""
    shown = infermesh("models", "show", "iris", "--version", "stable", "--target", served)

    rows = [line.split() for line in shown.out.splitlines()]
    assert [row for row in rows if row[:1] == ["1"] and len(row) > 8]
    assert not [row for row in rows if row[:1] == ["2"] and len(row) > 8]


@pytest.mark.parametrize(
    ("model", "version", "words"),
    [
        ("nobody", "", 'NOT_FOUND: model "nobody"'),
        ("iris", "beta", "one of its labels stable"),
        ("broken", "", "UNAVAILABLE: model"),
    ],
)
def test_what_can_not_be_shown_says_why(infermesh: Any, served: str, model: str, version: str, words: str) -> None:
    """A refusal is a line and an exit status, as everywhere."""
    shown = infermesh("models", "show", model, "--version", version, "--target", served)

    assert shown.status == 1
    assert words in shown.err


def test_a_model_is_loaded_and_unloaded(infermesh: Any, served: str) -> None:
    """Each says what it did; the list follows."""
    assert "iris is unloaded" in infermesh("models", "unload", "iris", "--target", served).out
    assert "unloaded" in infermesh("models", "ls", "--target", served).out
    assert "iris is loaded" in infermesh("models", "load", "iris", "--target", served).out
    assert "unloaded" not in infermesh("models", "ls", "--target", served).out

    failed = infermesh("models", "load", "broken", "--target", served)
    assert failed.status == 1
    assert "FAILED_PRECONDITION" in failed.err


def test_requests_are_profiled(infermesh: Any, served: str, profiles: Path) -> None:
    """So many requests later there is a file with where their time went."""
    said = infermesh("models", "profile", "iris", "--requests", "2", "--version", "stable", "--target", served)
    assert "the next 2 requests of iris are recorded" in said.out

    for _ in range(20):
        infermesh("infer", "iris", IRIS, "--version", "1", "--target", served)
        if list(profiles.glob("iris-1-*.json")):
            break

    assert list(profiles.glob("iris-1-*.json"))
