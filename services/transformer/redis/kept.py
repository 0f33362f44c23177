"""Rows that were cached when Redis went away: nobody vouches for them, and they are still better than defaults."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Entries", "Freed", "Kept", "entry_bytes"]

ENTRY_BYTES = 250  # of an entry beside key and value: two objects' heads, a tuple, a place in a table, a float
AT_ONCE = 1_000  # entries that are copied or freed in one turn of the loop: about 0.2 ms
LOSSES = 8  # whose entries are kept apart; each costs a look more for a key

Entries = OrderedDict[bytes, tuple[bytes | None, float]]  # what each key holds, and until when that may be believed


class _Loss:
    """What was taken over at one loss."""

    def __init__(self, entries: Entries, size_bytes: int) -> None:
        self.entries = entries
        self.size_bytes = size_bytes

    def drop(self, key: bytes) -> None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry_bytes(key, entry[0])


class Kept:
    """Values by key, for `keep_s` after the loss and no longer, whatever is lost meanwhile.

    That a key holds nothing is not kept: a default for what is unknown says so, a row that is missing would not. Nothing here
    takes longer for more entries: those of several losses stay apart, and what is not needed any more is freed bit by bit.
    """

    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._losses: list[_Loss] = []  # the oldest first
        self._lost_at = 0.0
        self._freed = Freed()

    def __len__(self) -> int:
        return sum([len(loss.entries) for loss in self._losses])

    @property
    def size_bytes(self) -> int:
        return sum([loss.size_bytes for loss in self._losses])

    def add(self, entries: Entries, size_bytes: int) -> None:
        """Take over what a cache held; what was added before stays for what is left of its time."""
        if not self._keep_s or not entries:
            self._freed.add(entries)
            return
        now = self._clock()
        if now >= self._lost_at + self._keep_s:
            self.clear()
        if not self._losses:
            self._lost_at = now
        elif (
            len(entries) <= AT_ONCE
        ):  # as while a connection comes and goes: else its first losses would push each other out
            for key in entries:
                self.drop(key)
            self._losses[-1].entries.update(entries)
            self._losses[-1].size_bytes += size_bytes
            return
        elif len(self._losses) == LOSSES:
            self._freed.add(self._losses.pop(0).entries)
        self._losses.append(_Loss(entries, size_bytes))

    def get(self, key: bytes) -> bytes | None:
        """What a key held when Redis went away; None if nothing is known of it."""
        for loss in reversed(self._losses):
            entry = loss.entries.get(key)
            if entry is None:
                continue
            if entry[1] <= self._lost_at:  # no longer believed even then
                return None
            if self._clock() >= self._lost_at + self._keep_s:
                self.clear()
                return None
            return entry[0]
        return None

    def drop(self, key: bytes) -> None:
        """Forget one key."""
        for loss in self._losses:
            loss.drop(key)

    def evict(self) -> bool:
        """Forget what was not used for longest; whether there was anything."""
        while self._losses:
            if oldest := self._losses[0].entries:
                self._losses[0].drop(next(iter(oldest)))
                return True
            del self._losses[0]
        return False

    def clear(self) -> None:
        """Forget everything."""
        for loss in self._losses:
            self._freed.add(loss.entries)
        self._losses.clear()


class Freed:
    """Gives the memory of entries back a little in each turn of the loop: of a gigabyte at once it takes 0.1 s.

    Until then they take memory beside what is kept. Where no loop runs they are gone at once.
    """

    def __init__(self) -> None:
        self._left: list[Entries] = []
        self._is_busy = False

    def __len__(self) -> int:
        return sum(map(len, self._left))

    def add(self, entries: Entries) -> None:
        """Take entries that nobody else has."""
        if len(entries) <= AT_ONCE:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._left.append(entries)
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._go_on, loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        entries = self._left[-1]
        for _ in range(min(AT_ONCE, len(entries))):
            entries.popitem()
        if not entries:
            self._left.pop()
        self._is_busy = bool(self._left)
        if self._is_busy:
            loop.call_soon(self._go_on, loop)


def entry_bytes(key: bytes, value: bytes | None) -> int:
    """What an entry takes of the memory, about."""
    return len(key) + len(value or b"") + ENTRY_BYTES
