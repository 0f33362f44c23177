"""Where lines go: a descriptor that is open, or a file that is bounded."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from infermesh.line_writer import Sink

__all__ = ["DescriptorSink", "FileSink"]

FILE_MODE = 0o640  # who called what is for operators


class DescriptorSink(Sink):
    """One that is open already and stays so: standard output."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes | memoryview) -> int:
        return os.write(self._descriptor, data)


class FileSink(Sink):
    """A file that is appended to. Before it grows past `max_bytes` it becomes `<file>.1`, that one `<file>.2`, up to `keep`.

    One that was moved away or removed, as logrotate does it, is begun anew with the next lines. A pipe or a device is written to
    as it is; without a reader a pipe fails instead of waiting for one. Several processes may append to one file.
    """

    def __init__(self, file: Path, max_bytes: int, keep: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor = -1
        self._size_bytes = 0
        self._identity = (0, 0)
        self._regular = True

    def prepare(self, size_bytes: int) -> None:
        if self._descriptor >= 0 and self._was_moved():
            self.close()
        if self._descriptor < 0:
            self._open()
        if self._regular and self._size_bytes and self._size_bytes + size_bytes > self._max_bytes:
            with contextlib.suppress(OSError):  # a file system without locks; the lock goes with the descriptor
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if self._was_moved():  # by another process, which had found it full too
                self.close()
                self._open()
            else:
                self._rotate()

    def write(self, data: bytes | memoryview) -> int:
        written = os.write(self._descriptor, data)
        self._size_bytes += written
        return written

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK  # the last one is for pipes alone
        self._descriptor = os.open(self._file, flags, FILE_MODE)
        status = os.fstat(self._descriptor)
        self._identity = (status.st_dev, status.st_ino)
        self._size_bytes = status.st_size
        self._regular = stat.S_ISREG(status.st_mode)
        if self._regular and self._size_bytes and self._ends_torn():
            self.write(b"\n")

    def _ends_torn(self) -> bool:
        """Whether the last line was cut off, by a crash or a full disk: the next one must not be glued to it."""
        with self._file.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def _was_moved(self) -> bool:
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return True
        if (status.st_dev, status.st_ino) != self._identity:
            return True
        self._size_bytes = status.st_size  # others may have added to it
        return False

    def _rotate(self) -> None:
        for number in range(self._keep, 0, -1):
            earlier = self._numbered(number - 1)
            if earlier.exists():
                earlier.replace(self._numbered(number))
        if not self._keep:
            self._file.unlink()
        self.close()
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._file.with_name(f"{self._file.name}.{number}") if number else self._file
