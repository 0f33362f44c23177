"""Rows that were cached when Redis went away: nobody vouches for them, and they are still better than defaults."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Entries", "Kept", "entry_bytes"]

ENTRY_BYTES = 250  # of an entry beside key and value: two objects' heads, a tuple, a place in a table, a float

Entries = OrderedDict[bytes, tuple[bytes | None, float]]  # what each key holds, and until when that may be believed


class Kept:
    """Values by key, for `keep_s` after the loss and no longer, whatever is lost meanwhile.

    That a key holds nothing is not kept: a default for what is unknown says so, a row that is missing would not.
    """

    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._entries: Entries = OrderedDict()
        self._lost_at = 0.0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entries: Entries, size_bytes: int) -> None:
        """Take over what a cache held; what was added before stays for what is left of its time."""
        if not self._keep_s or not entries:
            return
        now = self._clock()
        if now >= self._lost_at + self._keep_s:
            self.clear()
        if not self._entries:  # as it mostly is: nothing is copied, however much it is
            self._entries, self.size_bytes, self._lost_at = entries, size_bytes, now
            return
        for key in entries:
            self.drop(key)
        self._entries.update(entries)
        self.size_bytes += size_bytes

    def get(self, key: bytes) -> bytes | None:
        """What a key held when Redis went away; None if nothing is known of it."""
        entry = self._entries.get(key)
        if entry is None or entry[1] <= self._lost_at:  # no longer believed even then
            return None
        if self._clock() >= self._lost_at + self._keep_s:
            self.clear()
            return None
        return entry[0]

    def drop(self, key: bytes) -> None:
        """Forget one key."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry_bytes(key, entry[0])

    def evict(self) -> bool:
        """Forget what was not used for longest; whether there was anything."""
        if not self._entries:
            return False
        key, (value, _) = self._entries.popitem(last=False)
        self.size_bytes -= entry_bytes(key, value)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._entries = OrderedDict()
        self.size_bytes = 0


def entry_bytes(key: bytes, value: bytes | None) -> int:
    """What an entry takes of the memory, about."""
    return len(key) + len(value or b"") + ENTRY_BYTES
