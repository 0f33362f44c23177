"""Locks between processes that share a cache folder. A process that is killed leaves none behind."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

__all__ = ["FileLock"]


class FileLock:
    """One hold on a lock file: shared by those who use what it stands for, or exclusive for who removes it.

    flock(2) holds are of the open file, so two holds in one process exclude each other as those of two processes do.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, *, shared: bool = False, wait: bool = True) -> FileLock | None:
        """The hold; None when `wait` is off and others have it."""
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, how)
                # Who held it before may have removed the file; then the lock of this one is nobody's.
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return cls(path, descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def touch(self) -> None:
        """Note that what it stands for was used now: the file's time is what is kept of that over restarts."""
        os.utime(self._descriptor)

    def release(self, *, remove: bool = False) -> None:
        """`remove` the file too: only by who holds it exclusively."""
        if self._descriptor < 0:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1
