"""Files of remote roots, kept on this machine by their content."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from infermesh.errors import quoted
from services.predictor.load_failed import LoadFailed
from services.predictor.source.cache_folder import CacheFolder, sync_folder, write_whole
from services.predictor.source.checksum import checksums, sha256
from services.predictor.source.counts import Counts
from services.predictor.source.remote_file import Changed, RemoteFile
from services.predictor.source.room import Room, no_space
from services.predictor.source.store import Store
from services.predictor.source.trees import Trees, digest_of

__all__ = ["ContentCache"]

ATTEMPTS = 3  # to have all contents at once while other processes make room
TRIM_EVERY_S = 30.0  # at most, while nothing is let go of: a start with many models says of each that it is used

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_log = logging.getLogger(__name__)


class ContentCache:
    """One for all roots of a process; its folder may be shared with other processes. Thread-safe; everything blocks."""

    def __init__(
        self, folder: Path, max_bytes: int, counts: Counts, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.counts = counts
        self._folder = CacheFolder(folder)
        self._trees = Trees(self._folder, counts, clock)
        self._room = Room(self._folder, self._trees, max_bytes, counts)
        self._clock = clock
        self._trim_at = 0.0
        self._lock = threading.Lock()
        self._flights: dict[str, tuple[threading.Lock, int]] = {}

    def folder_of(
        self, owner: str, name: str, files: Sequence[RemoteFile], store: Store, unchanged: Callable[[], bool]
    ) -> Path:
        """A folder with exactly these files, each of the content that the store says, held as in use.

        `owner` and `name` say where it is noted which contents they have (a root's model, and its version); `unchanged` is asked
        after a download of files that the store tells no checksum of. Raises Changed, LoadFailed, SourceAway.
        """
        with self._ours(f"{owner}/{name}"), self._local_faults(name):
            self._folder.open()
            note = self._folder.roots / owner / f"{name}.json"
            for _ in range(ATTEMPTS):
                contents = self._known(files, note)
                digest = digest_of(contents) if len(contents) == len(files) else ""
                if digest:
                    self._trees.hold(digest)
                    if self._trees.is_whole(digest, contents):
                        self.counts.add(hits=1)
                        self._note(note, files, contents)
                        return self._folder.tree(digest)
                contents = self._complete(f"{owner}/{name}", files, contents, store, unchanged)
                digest = digest_of(contents)
                self._trees.hold(digest)
                with contextlib.suppress(FileNotFoundError):
                    if not self._trees.is_whole(digest, contents):
                        self._trees.build(digest, contents)
                    self._note(note, files, contents)
                    return self._folder.tree(digest)
            raise LoadFailed("the cache is too small for what several processes load into it at the same time")

    def used(self, folders: frozenset[Path]) -> None:
        """The folders that are in use from now on; the others may go, and do where the bound has been passed."""
        fewer = self._trees.used(folders)
        now = self._clock()
        if (fewer or now >= self._trim_at) and self._folder.trees.is_dir():
            self._trim_at = now + TRIM_EVERY_S
            try:
                self._room.trim()
            except OSError as error:  # what is in use is noted all the same
                _log.warning("the cache can't be kept to its bound", extra=self._fault(error))

    def remember(self, owner: str, name: str, document: Any) -> None:
        """Keep what a root said, for when it can't be asked. A disk that is full must not end a look that was answered."""
        try:
            self._folder.open()
            write_whole(self._folder.roots / owner / name, document, self._folder.partial())
        except OSError as error:
            _log.warning("the cache can't be written to", extra=self._fault(error))

    def recall(self, owner: str, name: str) -> Any:
        """What was kept; None for nothing, or nothing that can be read."""
        return _read(self._folder.roots / owner / name)

    def forget(self, owner: str) -> None:
        """All that was kept under that name. Contents stay until room is needed."""
        with contextlib.suppress(OSError):
            if (self._folder.roots / owner).is_dir():
                self._folder.remove(self._folder.roots / owner)

    def kept(self, owner: str) -> list[str]:
        """The names directly below that one."""
        try:
            return sorted(path.name for path in (self._folder.roots / owner).iterdir())
        except OSError:  # nothing yet, or not to be read
            return []

    def drop(self, owner: str, name: str) -> None:
        """One version's note."""
        with contextlib.suppress(OSError):
            (self._folder.roots / owner / f"{name}.json").unlink()

    def _fault(self, error: OSError) -> dict[str, str]:
        return {"folder": str(self._folder.path), "reason": str(error)}

    def _known(self, files: Sequence[RemoteFile], note: Path) -> dict[str, str]:
        """The contents that are known without a download: from the store; as they were when the file was in the same state; or
        by the MD5 of a file of any version of the model, since weights that are equal in two versions may be large."""
        noted = _noted(note)
        by_md5 = {}
        if any("md5" in file.checksums and file.name not in noted for file in files):
            for other in note.parent.glob("[!.]*.json"):
                for each in _noted(other).values():
                    by_md5[each.get("md5"), each.get("size")] = each["sha256"]
        contents = {}
        for file in files:
            before = noted.get(file.name, {})
            if "sha256" in file.checksums:
                contents[file.name] = file.checksums["sha256"]
            elif before.get("state") == file.state and before.get("size") == file.size:
                contents[file.name] = before["sha256"]
            elif "md5" in file.checksums and (found := by_md5.get((file.checksums["md5"], file.size))):
                contents[file.name] = found
        return contents

    def _complete(
        self,
        what: str,
        files: Sequence[RemoteFile],
        contents: dict[str, str],
        store: Store,
        unchanged: Callable[[], bool],
    ) -> dict[str, str]:
        """All contents, with an object for each: downloaded where it is not here, or not what it should be."""
        here = {sha: self._is_here(sha) for sha in set(contents.values())}
        missing = [file for file in files if not here.get(contents.get(file.name, ""), False)]
        if not missing:
            return contents
        began = time.monotonic()
        partials = [(file, self._folder.partial()) for file in missing]
        needed = sum(file.size for file in missing)
        with self._room.reserve(needed, sum(file.size for file in files)):
            try:
                store.download(partials)
                for file, path in partials:
                    contents[file.name] = self._checked(file, path, store)
                if not all(file.checksums for file in missing) and not unchanged():
                    raise Changed("its files changed while they were downloaded")
                for file, path in partials:
                    self._place(path, contents[file.name])
            finally:
                for _, path in partials:
                    path.unlink(missing_ok=True)
        self.counts.add(downloads=len(missing), download_bytes=needed)
        took = round(time.monotonic() - began, 3)
        _log.info("model files downloaded", extra={"of": what, "files": len(missing), "bytes": needed, "seconds": took})
        return contents

    def _is_here(self, content: str) -> bool:
        path = self._folder.object(content)
        try:
            if sha256(path) == content:
                return True
        except FileNotFoundError:
            return False
        self.counts.add(corrupt=1)
        _log.warning("a file in the cache is corrupt; it is downloaded anew", extra={"object": content})
        path.unlink(missing_ok=True)
        return False

    def _checked(self, file: RemoteFile, path: Path, store: Store) -> str:
        """The SHA-256 of what came, which is of the size and has the checksums that were listed."""
        size = path.stat().st_size if path.exists() else 0
        if size != file.size:
            raise Changed(f"{quoted(file.name)}: expected {file.size} bytes as listed, got {size}")
        path.touch()  # a file of no bytes may not have been made
        made = checksums(path, file.checksums)
        for algorithm, expected in file.checksums.items():
            if made.get(algorithm, expected) != expected and not store.explains(file, algorithm):
                raise Changed(f"{quoted(file.name)}: expected {algorithm} {expected} as listed, got {made[algorithm]}")
        return made["sha256"]

    def _place(self, path: Path, content: str) -> None:
        if self._is_here(content):  # of another version: its tree links to it, and one copy is enough
            return
        target = self._folder.object(content)
        target.parent.mkdir(exist_ok=True)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(0o444)
        path.replace(target)
        sync_folder(target.parent)

    def _note(self, note: Path, files: Sequence[RemoteFile], contents: dict[str, str]) -> None:
        document = {
            file.name: {
                "sha256": contents[file.name],
                "size": file.size,
                "state": file.state,
                "md5": file.checksums.get("md5", ""),
            }
            for file in files
        }
        if _read(note) != document:
            write_whole(note, document, self._folder.partial())

    @contextlib.contextmanager
    def _ours(self, key: str) -> Iterator[None]:
        """Two loads of one version in this process download once; others do not wait for them."""
        with self._lock:
            lock, waiting = self._flights.get(key, (threading.Lock(), 0))
            self._flights[key] = lock, waiting + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, waiting = self._flights.pop(key)
                if waiting > 1:
                    self._flights[key] = lock, waiting - 1

    @contextlib.contextmanager
    def _local_faults(self, name: str) -> Iterator[None]:
        """What this machine's disk says, as a reason in the index."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise LoadFailed(no_space(self._folder, f"while {name} was written")) from error
            raise LoadFailed(
                f"the cache {self._folder.path} (repository.cache.folder): {error.strerror or error}"
            ) from error


def _read(path: Path) -> Any:
    """An object of JSON; None for what is not there, or no such."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _noted(path: Path) -> dict[str, dict[str, Any]]:
    """What `_note` wrote; nothing of what another release or a damaged disk made of it."""
    entries = (_read(path) or {}).items()
    return {
        name: each for name, each in entries if isinstance(each, dict) and _SHA256.fullmatch(str(each.get("sha256")))
    }
