"""The bound of the cache: what was not used for longest goes when room is needed."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from infermesh.config.types import size_text
from services.predictor.load_failed import LoadFailed
from services.predictor.source.cache_folder import CacheFolder
from services.predictor.source.counts import Counts
from services.predictor.source.file_lock import FileLock
from services.predictor.source.trees import Trees

__all__ = ["Room"]


class Room:
    """Bytes for what is about to be downloaded. Several processes that download at the same moment may pass the bound by what
    each of them is downloading; the next one that needs room brings it back."""

    def __init__(self, folder: CacheFolder, trees: Trees, max_bytes: int, counts: Counts) -> None:
        self._folder = folder
        self._trees = trees
        self._max_bytes = max_bytes
        self._counts = counts
        self._lock = threading.Lock()
        self._reserved = 0

    @contextmanager
    def reserve(self, needed_bytes: int, version_bytes: int) -> Iterator[None]:
        """Room for that many bytes more, of a version of so many. Raises LoadFailed when it can't be had."""
        if version_bytes > self._max_bytes:
            raise LoadFailed(
                f"{version_bytes} bytes, more than repository.cache.max_bytes, which is {size_text(self._max_bytes)}"
            )
        with self._one_at_a_time():
            left = self._make(needed_bytes)
            if left < 0:
                raise LoadFailed(
                    f"{needed_bytes} bytes to download, {-left} more than there is room for in the cache "
                    f"({size_text(self._max_bytes)}, repository.cache.max_bytes) beside the versions in use"
                )
            free = shutil.disk_usage(self._folder.path).free
            if needed_bytes > free:
                raise LoadFailed(no_space(self._folder, f"{needed_bytes} bytes to download, {free} free"))
            self._reserved += needed_bytes
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= needed_bytes

    def trim(self) -> None:
        """Back to the bound, where what is not in use allows it."""
        with self._one_at_a_time():
            self._make(0)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        with self._lock:
            lock = FileLock.take(self._folder.path / "room.lock")
            assert lock is not None
            try:
                yield
            finally:
                lock.release()

    def _make(self, needed_bytes: int) -> int:
        """How many bytes are left after that many, when all that may go has gone; less than 0: that many are missing."""
        left = self._left(needed_bytes)
        if left < 0:  # contents without a tree, such as those of a load that was killed
            self._remove_loose()
            left = self._left(needed_bytes)
        for digest in self._trees.oldest_first() if left < 0 else ():
            if self._trees.remove(digest):
                self._remove_loose()
                left = self._left(needed_bytes)
                if left >= 0:
                    break
        return left

    def _left(self, needed_bytes: int) -> int:
        size = self._folder.size_bytes()
        self._counts.cache_bytes = size
        return self._max_bytes - size - self._reserved - needed_bytes

    def _remove_loose(self) -> None:
        """Objects that no tree links to. One that a load is about to link is downloaded by it again: this is rare."""
        for path in self._folder.objects.glob("*/*"):
            with suppress(FileNotFoundError):
                if path.stat().st_nlink == 1:
                    path.unlink()


def no_space(folder: CacheFolder, what: str) -> str:
    return f"no space left in {folder.path} (repository.cache.folder): {what}"
