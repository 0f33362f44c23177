"""A thread that writes lines, for who may not wait for a disk."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["LineWriter", "Sink"]

E = TypeVar("E")

GATHER_S = (
    0.01  # after the first entry: a thread that wakes for each one takes the interpreter from the calls each time
)
RETRY_S = 0.25
CLOSE_S = 2.0
LINES = 8  # that are made in one go: a call that comes meanwhile waits for the interpreter until they are written

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where lines go. Used by one thread. What can't be done raises OSError, and may be tried again."""

    def prepare(self, size_bytes: int) -> None:
        """Be ready for so many bytes that belong together."""
        return

    def write(self, data: bytes | memoryview) -> int:
        """Write some of it; how much."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        return


class LineWriter(Generic[E]):
    """Takes entries without ever waiting; a thread of its own makes lines of them and writes them. `title` is for the log;
    `lines` are made in one go, of which some tenths of a millisecond are enough.

    Each entry is counted once: `written`, `dropped` when `max_waiting` wait already, or `failed` when it could not be written.
    What can't be written now (a full disk) is tried again for `give_up_s`; after that each batch is tried once, until one
    succeeds. A sink that hangs holds the thread up and nothing else.
    """

    def __init__(
        self,
        title: str,
        sink: Sink,
        *,
        max_waiting: int,
        give_up_s: float,
        line: Callable[[E], bytes],
        lines: int = LINES,
    ) -> None:
        self.written = 0  # by the thread alone, as is `failed`; `dropped` by who calls `write`: no counter needs a lock
        self.failed = 0
        self.dropped = 0
        self._title = title
        self._lines = lines
        self._sink = sink
        self._max_waiting = max_waiting
        self._give_up_s = give_up_s
        self._line = line
        self._waiting: deque[E] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._failing = False
        self._end_at = math.inf
        self._torn = False  # the last line that was begun has no end
        self._thread = threading.Thread(target=self._run, name=title, daemon=True)  # one that hangs keeps no process

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Write from now on."""
        self._thread.start()

    def write(self, entry: E) -> None:
        """Have a line written for it, or drop it."""
        if len(self._waiting) >= self._max_waiting:
            self.dropped += 1
            return
        self._waiting.append(entry)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, within_s: float = CLOSE_S) -> None:
        """Write what waits and end; what is not written within the time is lost. Blocks until then."""
        self._end_at = (
            time.monotonic() + within_s / 2
        )  # later nothing is tried twice: what still waits has a right to its try
        self._closing.set()
        self._wake.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            _log.error("the %s can't be written: %d lines are lost", self._title, len(self._waiting))

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(GATHER_S)
            self._wake.clear()
            self._drain()
        self._drain()
        try:
            self._sink.close()
        except OSError as error:
            _log.error("the %s could not be closed: %s", self._title, error)

    def _drain(self) -> None:
        while self._waiting:
            lines = []
            for _ in range(min(self._lines, len(self._waiting))):
                entry = self._waiting.popleft()
                try:
                    lines.append(self._line(entry))
                except Exception as error:  # of one entry; the others are to be written
                    self.failed += 1
                    _log.error("a line of the %s could not be made", self._title, exc_info=error)
            if lines:
                self._put(lines)

    def _put(self, lines: list[bytes]) -> None:
        start = b"\n" if self._torn else b""
        data = start + b"".join(lines)
        at, prepared = 0, False
        give_up_at = time.monotonic() + (0.0 if self._failing else self._give_up_s)
        while True:
            try:
                if not prepared:
                    self._sink.prepare(len(data))
                    prepared = True
                while at < len(data):
                    at += self._sink.write(memoryview(data)[at:])
            except OSError as error:
                if not self._failing:
                    _log.error("the %s can't be written: %s", self._title, error)
                self._failing = True
                if time.monotonic() < min(give_up_at, self._end_at):
                    time.sleep(RETRY_S)
                    prepared = at > 0  # lines that were begun are ended where they were
                    continue
            break
        whole = data[:at].count(b"\n") - len(start[:at])
        self.written += whole
        self.failed += len(lines) - whole
        if at:
            self._torn = data[at - 1 : at] != b"\n"
        if at == len(data) and self._failing:
            self._failing = False
            _log.warning("the %s is written again", self._title)
