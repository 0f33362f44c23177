"""Versions' folders in the cache: built from contents, verified before use, held while they are in use."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from services.predictor.source.cache_folder import CacheFolder
from services.predictor.source.checksum import sha256
from services.predictor.source.counts import Counts
from services.predictor.source.file_lock import FileLock

__all__ = ["Trees", "digest_of"]

GRACE_S = 600.0  # for a session to be made of a folder that was handed out, before it has to be named as used

_log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


@dataclass
class _Hold:
    lock: FileLock
    since: float
    named: bool = False
    """Whether it was among those in use since it was handed out."""


class Trees:
    """A tree's name is the digest of its names and contents, so that what is in one never changes, and equal versions are one."""

    def __init__(self, folder: CacheFolder, counts: Counts, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._counts = counts
        self._clock = clock
        self._lock = threading.Lock()
        self._holds: dict[str, _Hold] = {}
        self._verified: dict[str, Stamp] = {}  # of trees that were found whole, by this process

    def hold(self, digest: str) -> None:
        """Nobody removes it until `used` has named other folders only, in this process or another."""
        with self._lock:
            hold = self._holds.get(digest)
            if hold is None:
                lock = FileLock.take(self._folder.tree_lock(digest), shared=True)
                assert lock is not None
                hold = self._holds[digest] = _Hold(lock, self._clock())
            hold.since, hold.named = self._clock(), False
            hold.lock.touch()

    def used(self, folders: Iterable[Path]) -> bool:
        """Let go of what is not in use any more; what was handed out a short time ago may still be on its way. Returns whether
        there was any."""
        names = {folder.name for folder in folders if folder.parent == self._folder.trees}
        now = self._clock()
        with self._lock:
            before = len(self._holds)
            for digest, hold in list(self._holds.items()):
                if digest in names:
                    hold.named = True
                    hold.lock.touch()
                elif hold.named or now - hold.since > GRACE_S:
                    hold.lock.release()
                    del self._holds[digest]
            return len(self._holds) < before

    def is_whole(self, digest: str, contents: Mapping[str, str]) -> bool:
        """Whether each file has the content that it should have, by name. Files are read once by each process, and again
        when one has changed since. A tree with another content in it is removed: objects are verified before it is built anew."""
        tree = self._folder.tree(digest)
        stamp = _stamp(tree, contents)
        if stamp is None:
            return False
        if self._verified.get(digest) == stamp:
            return True
        for name, content in contents.items():
            if sha256(tree / name) != content:
                if not _same(tree / name, self._folder.object(content)):  # else it counts when the object is looked at
                    self._counts.add(corrupt=1)
                self._folder.remove(tree)
                return False
        self._verified[digest] = stamp
        return True

    def build(self, digest: str, contents: Mapping[str, str]) -> None:
        """From objects that have been verified. Raises FileNotFoundError when another process removed one meanwhile."""
        partial, tree = self._folder.partial(), self._folder.tree(digest)
        partial.mkdir()
        try:
            for name, content in contents.items():
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(self._folder.object(content), target)
                except FileNotFoundError:
                    raise
                except OSError:  # a file system without hard links, or with no more of them for this file
                    shutil.copyfile(self._folder.object(content), target)
            if tree.exists():  # not whole, else it would not be built
                self._folder.remove(tree)
            try:
                partial.rename(tree)
            except OSError:
                if not tree.is_dir():  # built by another process at the same moment: the same files
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        if (stamp := _stamp(tree, contents)) is not None:
            self._verified[digest] = stamp

    def oldest_first(self) -> list[str]:
        """All trees, by their last use."""
        locks = []
        for lock in self._folder.trees.glob("*.lock"):
            with suppress(FileNotFoundError):  # removed meanwhile
                locks.append((lock.stat().st_mtime_ns, lock.stem))
        return [digest for _, digest in sorted(locks)]

    def remove(self, digest: str) -> bool:
        """Whether it could be removed: not while this or another process holds it."""
        lock = FileLock.take(self._folder.tree_lock(digest), wait=False)
        if lock is None:
            return False
        try:
            if self._folder.tree(digest).is_dir():
                self._folder.remove(self._folder.tree(digest))
                self._counts.add(evictions=1)
                _log.info("version removed from the cache: room was needed", extra={"tree": digest})
        finally:
            lock.release(remove=True)
        self._verified.pop(digest, None)
        return True


def digest_of(contents: Mapping[str, str]) -> str:
    """The name of the tree with these contents, by name."""
    return hashlib.sha256(json.dumps(sorted(contents.items())).encode()).hexdigest()[:32]


def _stamp(tree: Path, names: Iterable[str]) -> Stamp | None:
    """Changes when a file is replaced or written to; None when one is missing."""
    try:
        if not tree.is_dir():
            return None
        stats = [(tree / name).stat(follow_symlinks=False) for name in names]
    except OSError:
        return None
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
