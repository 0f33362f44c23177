"""The folder of the cache: what lies where, and how something gets there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.predictor.source.file_lock import FileLock

__all__ = ["CacheFolder", "sync_folder", "write_whole"]


class CacheFolder:
    """Shared by processes and by restarts.

    - `objects/ab/ab…`: contents, named by their SHA-256, never changed;
    - `trees/<digest>/`: the files of one version under their names, hard links to objects; `<digest>.lock` beside it is held
      shared by every process that uses it, and its time is that of the last use;
    - `roots/<root>/<model>/`: what the root had at the last look, and which contents its versions have;
    - `partial/<process>/`: what is not whole yet. A process that was killed holds no lock on its own, and the next one that
      starts removes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = path / "objects"
        self.trees = path / "trees"
        self.roots = path / "roots"
        self._partial = path / "partial"
        self._opening = threading.Lock()
        self._own: tuple[Path, FileLock] | None = None

    def open(self) -> None:
        """Make the folders, and remove what processes left that were killed. Again and again without harm. Raises OSError."""
        with self._opening:
            if self._own is not None:
                return
            for folder in (self.objects, self.trees, self.roots, self._partial):
                folder.mkdir(parents=True, exist_ok=True)
            own = self._partial / uuid.uuid4().hex
            lock = FileLock.take(own.with_suffix(".lock"))
            assert lock is not None
            own.mkdir()
            self._own = own, lock
            self._remove_leftovers()

    def partial(self) -> Path:
        """A path of this process alone, on the same file system; nothing is there."""
        self.open()
        assert self._own is not None
        return self._own[0] / uuid.uuid4().hex

    def object(self, sha256: str) -> Path:
        return self.objects / sha256[:2] / sha256

    def tree(self, digest: str) -> Path:
        return self.trees / digest

    def tree_lock(self, digest: str) -> Path:
        return self.trees / f"{digest}.lock"

    def remove(self, path: Path) -> None:
        """Out of sight at once, then file by file. What is open or mapped stays readable for who has it."""
        aside = self.partial()
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside, ignore_errors=True)

    def size_bytes(self) -> int:
        """Of objects and trees, each content once, however many trees link to it."""
        files = {}
        for top in (self.objects, self.trees):
            for path in _files(top):
                try:
                    stat = path.stat(follow_symlinks=False)
                except FileNotFoundError:  # removed meanwhile
                    continue
                files[stat.st_ino] = stat.st_size
        return sum(files.values())

    def _remove_leftovers(self) -> None:
        for path in self._partial.glob("*.lock"):
            lock = FileLock.take(path, wait=False)
            if lock is not None:
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                lock.release(remove=True)


def write_whole(path: Path, document: Any, partial: Path) -> None:
    """Write JSON so that a reader finds the old or the new, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """What was renamed into the folder is there after a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(top: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(top):
        for name in names:
            yield Path(folder, name)
