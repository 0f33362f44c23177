"""What a source has done so far, as numbers that the metrics read."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

__all__ = ["Counts"]


@dataclass
class Counts:
    """Totals since the start. Each is a plain int that any thread may read at any time; `add` is how they grow."""

    downloads: int = 0
    """Files that came from a root."""
    download_bytes: int = 0
    hits: int = 0
    """Versions (and models' settings) that were whole in the cache: nothing was downloaded."""
    evictions: int = 0
    """Versions that were removed from the cache because room was needed."""
    corrupt: int = 0
    """Files in the cache whose content was no longer what it had been; they were removed."""
    away: int = 0
    """Times that a root could not be asked, whether the cache could answer for it or not."""
    cache_bytes: int = 0
    """Bytes in the cache when it was last counted; files that several versions share count once."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **amounts: int) -> None:
        """`add(downloads=1, download_bytes=512)`, from any thread: none is lost."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)
