"""Models in a folder of this machine, read where they are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from services.predictor.source.source import Look, SourceAway, is_model_name

__all__ = ["Folder"]

NO_VERSION = "warm_up"  # holds data for warm-ups


class Folder:
    """A root that is a folder, such as a mounted volume."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.root = Path(location)

    def models(self) -> list[str]:
        if not self.root.is_dir():
            raise SourceAway(f"{self.root} is no folder")
        return sorted(path.name for path in self.root.iterdir() if is_model_name(path.name) and path.is_dir())

    def look(self, model: str) -> Look | None:
        folder = self.root / model
        if not is_model_name(model) or not _is_folder(folder):
            return None
        beside = [path for path in folder.iterdir() if path.is_file()]
        beside += (folder / NO_VERSION).rglob("*") if (folder / NO_VERSION).is_dir() else []
        versions = [p for p in folder.iterdir() if p.is_dir() and is_model_name(p.name) and p.name != NO_VERSION]
        return Look(_print(folder, beside), {p.name: _print(p, p.rglob("*")) for p in sorted(versions)})

    def settings_folder(self, model: str) -> Path:
        return self.root / model

    def version_folder(self, model: str, version: str) -> Path:
        return self.root / model / version

    def used(self, folders: frozenset[Path]) -> None:
        """Nothing of a folder is ours to remove."""


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long for the file system
        return False


def _print(folder: Path, files: Iterable[Path]) -> str:
    """Names, sizes and times of the files: what changes when one is replaced. Hidden ones are somebody's tools'."""
    lines = []
    for path in sorted(files):
        if path.name.startswith("."):
            continue
        try:
            stat = path.stat()
        except OSError:  # gone meanwhile
            continue
        if not path.is_dir():
            lines.append(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    return "\n".join(lines)
