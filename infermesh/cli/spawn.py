"""Starting a child process that does not outlive us."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

__all__ = ["spawn"]

# Asks the kernel to send SIGTERM when the parent dies (prctl(2), PR_SET_PDEATHSIG = 1), then becomes the program; the
# setting survives execve. A program of its own rather than `preexec_fn`, which would run Python between fork and exec of a
# process with threads. The parent may have died before the call: then its id is no longer the one that was given.
_TIED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0); "
    "os.getppid() == int(sys.argv[1]) or os._exit(143); os.execv(sys.argv[2], sys.argv[2:])"
)

# The kernel's "parent" is the thread that started the child: this one lives as long as the process.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="spawn")


def spawn(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, output: int | IO[bytes] = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, so that a Ctrl-C in the terminal reaches us alone.

    Both its outputs go to `output`. On Linux it gets SIGTERM when we die, whatever we die of; elsewhere only an orderly end of
    ours ends it. The command's first word is a path.
    """
    words = [*command]
    if sys.platform == "linux":
        words = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *words]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    return _spawner.submit(start).result()
