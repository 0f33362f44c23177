"""Where the files of a running service are: in memory, for its user alone, and gone with it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["run_folder"]

PREFIX = "infermesh-"
LOCK = "lock"


@contextmanager
def run_folder(place: Path | None = None) -> Iterator[Path]:
    """A folder of mode 0700, removed at the end; what services left that were killed is removed first.

    It is in memory where there is such a place, since private keys are among its files. A lock says that somebody lives: a
    process id would say nothing in another container on the same place.
    """
    place = place or _in_memory()
    for left in place.glob(f"{PREFIX}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    with (folder / "new").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "new").rename(
            folder / LOCK
        )  # only now: whoever looks takes a lock that nobody holds for one that was left
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # somebody lives there, is about to, or is another user
        return


def _in_memory() -> Path:
    place = Path("/dev/shm")
    return place if os.access(place, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
