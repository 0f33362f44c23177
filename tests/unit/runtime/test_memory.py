"""What was freed stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

BLOCKS = 50
BLOCK_BYTES = 602_112
PAGE_BYTES = 4096

COUNT_FAULTS = f"""
import resource, sys
from infermesh.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def use():
    block = bytearray({BLOCK_BYTES})
    block[:: {PAGE_BYTES}] = b"x" * len(range(0, {BLOCK_BYTES}, {PAGE_BYTES}))
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({BLOCKS}):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **variables: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, how],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such settings")
def test_a_large_block_is_fetched_from_the_kernel_once() -> None:
    """Without it each block of a tensor's size is mapped anew, a page fault for every 4 KiB; with it none is."""
    pages = BLOCKS * BLOCK_BYTES // PAGE_BYTES

    assert faults("keep") < pages / 10
    assert faults("leave", MALLOC_MMAP_THRESHOLD_="131072") > pages / 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such settings")
def test_what_an_operator_has_set_stands() -> None:
    """The allocator's own variables win."""
    pages = BLOCKS * BLOCK_BYTES // PAGE_BYTES

    assert faults("keep", MALLOC_MMAP_THRESHOLD_="131072") > pages / 2
