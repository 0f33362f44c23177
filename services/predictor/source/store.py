"""What a Remote asks of the kind of store behind its URL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from services.predictor.source.remote_file import RemoteFile

__all__ = ["Store"]


class Store(Protocol):
    """Lists and downloads. Blocks; used from several threads. All raise SourceAway."""

    def models(self) -> list[str]:
        """The names of the folders right below the root, in any order."""
        ...

    def files(self, model: str) -> list[RemoteFile]:
        """All files below the model's folder, named from there; none when there is no such folder."""
        ...

    def download(self, files: Iterable[tuple[RemoteFile, Path]]) -> None:
        """Write each file to its path. What is there after an error is worth nothing."""
        ...

    def explains(self, file: RemoteFile, algorithm: str) -> bool:
        """Whether there is a good reason that this checksum is not the content's."""
        ...
