"""One folder in the place of another, with no moment in which neither is there, and what a killed import leaves.

Linux exchanges two names in one step (renameat2 with RENAME_EXCHANGE, Linux 3.15). Where the system or the file system can't, the
old folder is renamed away and the new one takes its name; a process that is killed between the two leaves the old one under a
name that says which it was, and `repair` puts it back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["STAGED", "locked", "repair", "replace_folder"]

STAGED = ".import-"  # begins the name of a folder that is being written; its writer holds a lock on it
_OLD = ".old-"  # and of one that was renamed away: `.old-<version>-<random>`

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CAN_NOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until nobody else holds the folder; a process that is killed holds none. Without effect where there are no locks."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def replace_folder(new: Path, target: Path) -> None:
    """`new` takes the name of `target`, which exists, in one step where that can be done; the old one is removed."""
    if _exchanged(new, target):
        shutil.rmtree(new, ignore_errors=True)
        return
    old = target.with_name(f"{_OLD}{target.name}-{secrets.token_hex(8)}")
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def repair(folder: Path) -> None:
    """Put back what a killed import renamed away and did not replace, and remove what it left; call it with the folder locked."""
    for left in sorted(folder.iterdir()):
        if left.name.startswith(_OLD):
            version = left.name.removeprefix(_OLD).rpartition("-")[0]
            target = folder / version
            if not version.isdecimal():  # not one of ours, and perhaps all that there is of a model
                continue
            if os.path.lexists(target):
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.rename(target)
        elif left.name.startswith(STAGED) and _is_left(left):
            shutil.rmtree(left, ignore_errors=True)


def _is_left(staged: Path) -> bool:
    """Whether nobody writes it any more; where there are no locks nobody can say so, and it stays."""
    try:
        opened = os.open(staged, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(opened)
    return True


def _exchanged(one: Path, other: Path) -> bool:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # not Linux, or its C library is older than glibc 2.28
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CAN_NOT:
        return False
    raise OSError(number, os.strerror(number), str(other))
