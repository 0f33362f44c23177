"""Files of lines in a folder: each is bounded, and so are all together."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from infermesh.line_writer import Sink

__all__ = ["LineFiles"]

FILE_MODE = 0o640


class LineFiles(Sink):
    """Appends lines to a file of its own in `folder`; a new one when it would grow past `max_bytes`, before which the oldest of
    the folder, whoever wrote them, are deleted until all have room within `max_total`. Their names, `<prefix>-<time>-<process>`,
    sort by time.

    A line that `append` can't write raises OSError and leaves nothing behind where that can be helped. A file or folder that was
    removed is begun anew with the next line after `look`.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        max_total: int,
        *,
        prefix: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._prefix = prefix
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_total = max_total
        self._now = now
        self._file: Path | None = None
        self._descriptor = -1
        self._size_bytes = 0
        self.deleted = 0

    def append(self, line: bytes) -> None:
        """Write a line, newline included, of at most `max_bytes`."""
        self.prepare(len(line))
        at, begun = 0, self._size_bytes
        try:
            while at < len(line):
                at += self.write(memoryview(line)[at:])
        except OSError:
            if at:
                self._undo(begun)
            raise

    def prepare(self, size_bytes: int) -> None:
        if self._descriptor >= 0 and self._size_bytes and self._size_bytes + size_bytes > self._max_bytes:
            self.close()
        if self._descriptor < 0:
            self._begin()

    def write(self, data: bytes | memoryview) -> int:
        written = os.write(self._descriptor, data)
        self._size_bytes += written
        return written

    def look(self) -> None:
        """See whether the file is still there."""
        if self._file is not None and not self._file.exists():
            self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor, self._file = self._descriptor, -1, None
            os.close(descriptor)

    def _begin(self) -> None:
        self._make_room()
        file = self._folder / f"{self._prefix}-{self._now():%Y%m%dT%H%M%S.%fZ}-{os.getpid()}.jsonl"
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        self._file, self._size_bytes = file, os.fstat(self._descriptor).st_size

    def _make_room(self) -> None:
        sizes = {}
        for file in sorted(self._folder.glob(f"{self._prefix}-*.jsonl")):
            try:
                sizes[file] = file.stat().st_size
            except FileNotFoundError:  # another process was faster
                continue
        total = sum(sizes.values())
        for file, size in sizes.items():
            if total + self._max_bytes <= self._max_total:
                break
            file.unlink(missing_ok=True)
            self.deleted += 1
            total -= size

    def _undo(self, begun: int) -> None:
        """Take back the part of a line that was written; where that fails as well, go on in a new file."""
        try:
            os.ftruncate(self._descriptor, begun)
            self._size_bytes = begun
        except OSError:
            self.close()
