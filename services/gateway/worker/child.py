"""A child of a process that has threads and an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Mapping, Sequence

__all__ = ["Child"]


class Child:
    """A program that runs from the moment this is made, with nothing on its standard input.

    `subprocess` starts it by vfork(2): what comes before exec is a few system calls. uvloop would fork, and the child of a
    process with Envoy's and gRPC's threads then runs what every library does after a fork: now and then it dies of that.
    Raises OSError when there is no such program, or no room for another process. To be made on a running loop, which it holds
    up until exec.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], pass_fds: Sequence[int]) -> None:
        self._process = subprocess.Popen(command, env=environment, pass_fds=pass_fds, stdin=subprocess.DEVNULL)
        self._ended = asyncio.Event()
        watch = threading.Thread(target=self._watch, args=(asyncio.get_running_loop(),), daemon=True)
        try:
            watch.start()
        except RuntimeError as error:  # no room for a thread
            self._process.kill()
            self._process.wait()
            raise OSError(str(error)) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """None while it runs, else its exit status; negative: minus the signal that ended it."""
        return self._process.returncode

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> None:
        """Return when it has ended."""
        await self._ended.wait()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._ended.set)
