"""An even sample of rows that come piece by piece, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array

__all__ = ["Sample"]


class Sample:
    """At most `limit` of the rows that it is offered, each with the same chance, in the order in which they came.

    Every row gets a random number, and the rows with the smallest ones stay (Vitter 1985 calls it a reservoir with random keys).
    The numbers are drawn in the order of the rows, so the same rows give the same sample, however they are cut into pieces.
    """

    def __init__(self, limit: int, seed: int) -> None:
        self.offered = 0
        self._limit = limit
        self._draw = np.random.default_rng(seed)
        self._bound = np.inf
        self._keys: list[NDArray[np.float64]] = []
        self._pieces: list[Mapping[str, Array]] = []
        self._kept = 0

    def choose(self, rows: int) -> NDArray[np.intp]:
        """Which of the next rows may stay; the caller hands exactly those over, by `keep`, and may leave the others unread."""
        self.offered += rows
        keys = self._draw.random(rows)
        chosen = np.flatnonzero(keys < self._bound)
        self._keys.append(keys[chosen])
        return chosen

    def keep(self, columns: Mapping[str, Array]) -> None:
        """The rows that were chosen last, by column."""
        self._pieces.append(columns)
        self._kept += len(self._keys[-1])
        if self._kept > 2 * self._limit:
            self._thin()

    def rows(self) -> dict[str, Array]:
        """The sample; empty if no row was offered."""
        if not self._pieces:
            return {}
        self._thin()
        return dict(self._pieces[0])

    def _thin(self) -> None:
        keys = np.concatenate(self._keys)
        columns = {name: np.concatenate([piece[name] for piece in self._pieces]) for name in self._pieces[0]}
        if len(keys) > self._limit:
            stay = np.sort(np.argpartition(keys, self._limit)[: self._limit])
            self._bound = float(np.partition(keys, self._limit)[self._limit])  # whoever is above can't come in any more
            keys, columns = keys[stay], {name: array[stay] for name, array in columns.items()}
        self._keys, self._pieces, self._kept = [keys], [columns], len(keys)
