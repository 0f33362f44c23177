"""Which folders of a source must not be removed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from services.predictor.model_version import ModelVersion
from services.predictor.source import Source

__all__ = ["FoldersInUse"]


class FoldersInUse:
    """Tells the source which version folders are being loaded, answer, or finish their last calls. Its methods block; any
    thread may call them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._loading: Counter[Path] = Counter()
        self._alive: WeakKeyDictionary[ModelVersion, Path] = WeakKeyDictionary()

    @contextmanager
    def loading(self, folder: Path) -> Iterator[None]:
        """While a version is made of this folder."""
        with self._lock:
            self._loading[folder] += 1
            self._tell()
        try:
            yield
        finally:
            with self._lock:
                self._loading[folder] -= 1
                self._loading += Counter()  # drops those that are at 0

    def made(self, version: ModelVersion, folder: Path) -> None:
        """This version reads the folder for as long as there is one who has it."""
        with self._lock:
            self._alive[version] = folder

    def tell(self) -> None:
        """To be called when versions have come or gone."""
        with self._lock:
            self._tell()

    def _tell(self) -> None:
        self._source.used(frozenset(self._loading) | frozenset(self._alive.values()))
