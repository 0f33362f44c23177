"""Memory that was freed stays with the process, so that the next large message does not fetch it from the kernel page by page.

glibc maps blocks of over 128 kB one by one and gives them back when they are freed, or trims its heap after them: a tensor of
602 kB costs some 350 page faults for each call, more than all other work on it together (benchmarks/README.md has the figures).
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

# malloc.h; mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
MMAP_ABOVE_BYTES = 32 << 20  # the most that glibc takes
KEEP_BYTES = 64 << 20  # of free memory at the end of a heap; what is above goes back to the kernel


def keep_freed_memory() -> None:
    """To be called once, before threads start. An operator's own MALLOC_… variables stand; without glibc nothing is done."""
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl, macOS
        return
    mallopt(_M_MMAP_THRESHOLD, MMAP_ABOVE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEEP_BYTES)
