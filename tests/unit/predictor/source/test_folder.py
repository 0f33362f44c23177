"""A root that is a folder of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from services.predictor.source import Folder, Look, SourceAway


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/1/model.onnx").write_bytes(b"graph")
    return Folder(str(tmp_path))


def fails(monkeypatch: pytest.MonkeyPatch, path: Path, error: OSError) -> None:
    scandir = os.scandir

    def scan(given: Any = ".") -> Any:
        if Path(given) == path:
            raise error
        return scandir(given)

    monkeypatch.setattr(os, "scandir", scan)


@pytest.mark.parametrize("error", [OSError(116, "Stale file handle"), PermissionError(13, "Permission denied")])
def test_a_file_system_that_fails_is_a_root_that_is_away(
    folder: Folder, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the protocol of a source says: nothing but SourceAway, with what failed and why."""
    fails(monkeypatch, folder.root, error)

    with pytest.raises(SourceAway, match=rf"^{folder.root} can't be read: {error.strerror}$"):
        folder.models()


def test_a_model_that_can_not_be_read_is_away(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is named; the others are listed."""
    fails(monkeypatch, folder.root / "m", PermissionError(13, "Permission denied"))

    with pytest.raises(SourceAway, match=rf"^{folder.root}/m can't be read: Permission denied$"):
        folder.look("m")
    assert folder.models() == ["m"]


def test_a_model_that_goes_while_it_is_looked_at_is_gone(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder was there, and is not any more: that is no fault of the root."""
    fails(monkeypatch, folder.root / "m", FileNotFoundError(2, "No such file or directory"))

    assert folder.look("m") is None


def test_a_name_that_no_folder_can_have_is_no_model(folder: Folder) -> None:
    """Too long for the file system is not away."""
    assert folder.look("m" * 300) is None


@pytest.mark.parametrize("name", ["m/1/.git/x", "m/1/deep/.cache/x", "m/1/.x", "m/.notes", "m/warm_up/.git/x"])
def test_what_is_hidden_is_in_no_look(folder: Folder, name: str) -> None:
    """A tool's folder in a version is no change of the version, however deep."""
    before = folder.look("m")
    (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
    (folder.root / name).write_bytes(b"x")

    assert folder.look("m") == before


@pytest.mark.parametrize("name", ["m/1/deep/weights.bin", "m/config.yaml", "m/_rows.npy", "m/warm_up/x.npy"])
def test_what_is_not_hidden_is(folder: Folder, name: str) -> None:
    """Files beside the model's and beside the versions, and data for warm-ups."""
    before = folder.look("m")
    (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
    (folder.root / name).write_bytes(b"x")
    after = folder.look("m")

    assert isinstance(after, Look) and after != before
