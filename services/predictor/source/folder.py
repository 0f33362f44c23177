"""Models in a folder of this machine, read where they are."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from services.predictor.source.counts import Counts
from services.predictor.source.source import WARM_UP, Look, SourceAway, is_hidden, is_model_name

__all__ = ["Folder"]


class Folder:
    """A root that is a folder, such as a mounted volume. A file system that fails (a right that is missing, a stale mount) is
    away: for all of it when the root can't be listed, for one model when that one can't be read."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.root = Path(location)
        self.counts = Counts()  # nothing is fetched from where the files are already

    def models(self) -> list[str]:
        try:
            with os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if is_model_name(entry.name) and _may_be_folder(entry))
        except (FileNotFoundError, NotADirectoryError):
            raise SourceAway(f"{self.root} is no folder") from None
        except OSError as error:
            raise _away(self.root, error) from None

    def look(self, model: str) -> Look | None:
        folder = self.root / model
        if not is_model_name(model):
            return None
        try:
            with os.scandir(folder) as entries:
                here = sorted(entries, key=lambda entry: entry.name)
            folders = [entry.name for entry in here if entry.is_dir()]
            beside = [folder / entry.name for entry in here if entry.is_file()]
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):  # gone meanwhile, or never there
                return None
            raise _away(folder, error) from None
        if WARM_UP in folders:
            beside += _files(folder / WARM_UP)
        versions = [name for name in folders if is_model_name(name) and name != WARM_UP]
        return Look(_print(folder, beside), {name: _print(folder / name, _files(folder / name)) for name in versions})

    def settings_folder(self, model: str) -> Path:
        return self.root / model

    def version_folder(self, model: str, version: str) -> Path:
        return self.root / model / version

    def used(self, folders: frozenset[Path]) -> None:
        """Nothing of a folder is ours to remove."""


def _away(path: Path, error: OSError) -> SourceAway:
    return SourceAway(f"{path} can't be read: {error.strerror or type(error).__name__}")


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to what can't be read: its own look says why, and the others are listed
        return True


def _files(folder: Path) -> Iterator[Path]:
    """All below it but what is hidden. A folder that can't be read has none: the load of its version says why."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in files:
            yield Path(parent, name)


def _print(folder: Path, files: Iterable[Path]) -> str:
    """Names, sizes and times of the files: what changes when one is replaced."""
    lines = []
    for path in sorted(files):
        name = path.relative_to(folder).as_posix()
        if is_hidden(name):
            continue
        try:
            stat = path.stat()
        except OSError:  # gone meanwhile
            continue
        lines.append(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    return "\n".join(lines)
