"""Ctrl-C, once and twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "interruptible"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Somebody wants us to end, orderly; `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def interruptible(kill: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP raises Interrupted in the main thread; the next one calls `kill` and exits at once.

    To be entered in the main thread.
    """
    arrived = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal arrived
        if arrived:
            kill()
            os._exit(128 + number)
        arrived = True
        raise Interrupted(number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
