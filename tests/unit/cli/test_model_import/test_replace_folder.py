"""A version is replaced with no moment in which it is not there, or is put back after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infermesh.cli.failure import Failure
from infermesh.cli.model_import import replace_folder as module
from infermesh.cli.model_import.place import write_version
from infermesh.cli.model_import.replace_folder import STAGED, locked, repair

# Replaces version 1 by force, and is killed at one point of that.
KILLED = """
import os, pathlib, signal, sys
from infermesh.cli.model_import import place, replace_folder as module

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "between the two renames":
    module._exchanged = lambda one, other: False
    rename, seen = pathlib.Path.rename, []
    pathlib.Path.rename = lambda self, to: seen.append(to) or (rename(self, to) if len(seen) == 1 else die())
elif sys.argv[2] == "after the exchange":
    module.shutil.rmtree = die
else:
    place._write = die
place.write_version(pathlib.Path(sys.argv[1]), "m", 1, {"model.onnx": b"new"}, force=True)
"""


def killed(root: Path, at: str) -> None:
    command = [sys.executable, "-c", KILLED, str(root), at]
    ended = subprocess.run(command, cwd=Path(__file__).parents[4], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL


def versions(root: Path) -> dict[str, bytes]:
    """Everything in the model's folder, hidden or not."""
    return {each.name: (each / "model.onnx").read_bytes() for each in (root / "m").iterdir()}


def can_exchange(folder: Path) -> bool:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    return module._exchanged(folder / "a", folder / "b")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    write_version(root, "m", 1, {"model.onnx": b"old"})
    return root


def test_a_kill_between_two_renames_is_mended_by_the_next_import(root: Path) -> None:
    """Where names can't be exchanged the version is away, and comes back as it was."""
    killed(root, "between the two renames")
    assert "1" not in versions(root)

    write_version(root, "m", 2, {"model.onnx": b"next"})

    assert versions(root) == {"1": b"old", "2": b"next"}


def test_a_kill_right_after_the_exchange_leaves_the_new_version(root: Path, tmp_path: Path) -> None:
    """And the old one under a hidden name, which the next import removes."""
    if not can_exchange(tmp_path):
        pytest.skip("this file system can't exchange names")
    killed(root, "after the exchange")
    assert versions(root)["1"] == b"new"

    write_version(root, "m", 2, {"model.onnx": b"next"})

    assert versions(root) == {"1": b"new", "2": b"next"}


def test_a_kill_while_it_is_written_leaves_the_old_version(root: Path) -> None:
    """What was written so far is removed by the next import."""
    killed(root, "while it is written")
    assert (root / "m/1/model.onnx").read_bytes() == b"old"

    write_version(root, "m", 2, {"model.onnx": b"next"})

    assert versions(root) == {"1": b"old", "2": b"next"}


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_version_is_replaced_whole(root: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    """With and without an exchange: nothing of the old one stays, and nothing hidden."""
    if not exchanges:
        monkeypatch.setattr(module, "_exchanged", lambda one, other: False)

    write_version(root, "m", 1, {"model.onnx": b"new"}, force=True)

    assert versions(root) == {"1": b"new"}


def test_a_rename_that_fails_puts_the_old_version_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The import is refused, and the repository is as it was."""
    monkeypatch.setattr(module, "_exchanged", lambda one, other: False)
    rename = Path.rename

    def fails(self: Path, to: Path) -> Path:
        if self.name.startswith(STAGED):
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(Failure, match="Input/output error"):
        write_version(root, "m", 1, {"model.onnx": b"new"}, force=True)

    assert versions(root) == {"1": b"old"}


def test_an_exchange_that_fails_for_another_reason_is_told(root: Path) -> None:
    """A folder that is not there is no file system that can't."""
    with pytest.raises(OSError, match="No such file"):
        module.replace_folder(root / "m/none", root / "m/1")

    assert versions(root) == {"1": b"old"}


def test_what_another_import_writes_is_left_alone(root: Path) -> None:
    """Its folder is locked as long as it lives."""
    staged = root / "m" / f"{STAGED}other"
    staged.mkdir()
    with locked(staged):
        repair(root / "m")
        assert staged.exists()

    repair(root / "m")

    assert not staged.exists()


def test_hidden_folders_of_others_stay(root: Path) -> None:
    """What has no version in its name is not for us to remove."""
    for name in (".old-mine", ".git", ".old-"):
        (root / "m" / name).mkdir()

    repair(root / "m")

    assert {each.name for each in (root / "m").iterdir()} == {"1", ".old-mine", ".git", ".old-"}


def test_imports_take_their_names_one_after_the_other(root: Path) -> None:
    """Twelve at once, some of them by force: each version is whole, and each number given once."""
    threads = [
        threading.Thread(target=write_version, args=(root, "m", None, {"model.onnx": b"%d" % n})) for n in range(8)
    ]
    forced = [
        threading.Thread(target=write_version, args=(root, "m", 1, {"model.onnx": b"forced"}), kwargs={"force": True})
        for _ in range(4)
    ]
    for each in (*threads, *forced):
        each.start()
    for each in (*threads, *forced):
        each.join()

    found = versions(root)
    assert found.pop("1") == b"forced"
    assert sorted(found) == sorted(str(number) for number in range(2, 10))
    assert sorted(found.values()) == [b"%d" % n for n in range(8)]
