"""Checksums of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["checksums", "sha256"]

PIECE_BYTES = 2**20


def sha256(path: Path) -> str:
    """In hexadecimal. hashlib lets other threads run meanwhile."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """SHA-256, and those of `algorithms` (md5, crc32c) that can be computed here, in one read."""
    made: dict[str, Any] = {"sha256": hashlib.sha256()}
    for algorithm in algorithms:
        if algorithm == "md5":
            made[algorithm] = hashlib.md5(usedforsecurity=False)
        elif algorithm == "crc32c":
            try:
                from google_crc32c import Checksum  # comes with gcsfs, the only one whose stores tell it
            except ImportError:
                continue
            made[algorithm] = Checksum()  # type: ignore[no-untyped-call]
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            for checksum in made.values():
                checksum.update(piece)
    return {algorithm: checksum.digest().hex() for algorithm, checksum in made.items()}
