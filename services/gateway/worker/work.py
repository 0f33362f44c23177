"""The process's end of a worker: one thread that takes frames, answers what is asked, and tells how it is doing."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any, Protocol

from services.gateway.worker.frames import ANSWER, ASK, FAULT, TICK, FrameReader, head_of

__all__ = ["Worker", "work"]

FD = "INFERMESH_WORKER_FD"
TICK_S = 0.5
READ_BYTES = 1 << 18
NICE = 10  # calls come first

_ID = struct.Struct("<Q")
_log = logging.getLogger(__name__)


class Worker(Protocol):
    """What is done in the process. Nothing here may take longer than the feed's `hang_s`."""

    def take(self, kind: int, parts: tuple[bytes, ...]) -> None:
        """One frame. What it raises is logged, and the next one is taken."""

    def answer(self, data: bytes) -> bytes:
        """The answer to what the gateway asked."""
        raise NotImplementedError

    def tick(self) -> dict[str, float]:
        """Called about twice a second; what the gateway is to know."""
        return {}

    def close(self) -> None:
        """Nothing more will come: save what is to be kept."""


def work(worker: Worker) -> None:
    """Run a worker on the socket that the gateway left us, until the gateway hangs up or SIGTERM comes; what was sent is taken.

    SIGINT is ignored: a Ctrl-C reaches the gateway too, which then tells us to end.
    """
    if FD not in os.environ:
        sys.exit("this is a worker of the gateway, which starts it by itself")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending = False

    def end(number: int, frame: Any) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, end)
    os.nice(NICE)
    link = socket.socket(fileno=int(os.environ[FD]))
    process = _Process(worker, link)
    try:
        while True:
            left_s = process.tick_at - time.monotonic()
            if select.select([link], [], [], 0.0 if ending else max(0.0, left_s))[0]:
                data = link.recv(READ_BYTES)
                if not data:
                    break
                process.receive(data)
            elif ending:
                break
            if time.monotonic() >= process.tick_at:
                process.tick()
    except OSError as error:  # the gateway is gone without a goodbye
        _log.warning("the gateway has gone: %s", error)
    worker.close()
    process.say_goodbye()


class _Process:
    def __init__(self, worker: Worker, link: socket.socket) -> None:
        self.tick_at = 0.0
        self._worker = worker
        self._link = link
        self._reader = FrameReader()
        self._taken = 0

    def receive(self, data: bytes) -> None:
        for kind, parts in self._reader.read(data):
            if kind == ASK:
                self._answer(*parts)
                continue
            try:
                self._worker.take(kind, parts)
            except Exception as error:  # of one frame; the others are to be taken
                _log.error("a frame could not be taken", exc_info=error)
            self._taken += 1
            if time.monotonic() >= self.tick_at:  # also while there is much to do: silence is taken for a hang
                self.tick()

    def tick(self) -> None:
        self.tick_at = time.monotonic() + TICK_S
        try:
            counters = self._worker.tick()
        except Exception as error:
            _log.error("it could not be told how it is doing", exc_info=error)
            counters = {}
        self._send(TICK, _ID.pack(self._taken), json.dumps(counters).encode())

    def say_goodbye(self) -> None:
        """A last word of what was taken; the gateway may not hear it any more."""
        try:
            self.tick()
            self._link.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._link.close()

    def _answer(self, turn: bytes, data: bytes) -> None:
        try:
            self._send(ANSWER, turn, self._worker.answer(data))
        except OSError:
            raise
        except Exception as error:
            _log.error("what was asked could not be answered", exc_info=error)
            self._send(FAULT, turn)

    def _send(self, kind: int, *parts: bytes) -> None:
        self._link.sendall(b"".join((head_of(kind, parts), *parts)))
