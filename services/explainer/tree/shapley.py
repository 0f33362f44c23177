"""TreeSHAP of one ensemble against one background, prepared once for any number of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array
from services.explainer.estimate import Floats
from services.explainer.graph import NotReadable
from services.explainer.graph.trees import Trees
from services.explainer.tree.answer import Algorithm, CoversFrom
from services.explainer.tree.covers import counted, given, shares
from services.explainer.tree.deep import against_background, by_shares
from services.explainer.tree.paths import Paths
from services.explainer.tree.tables import background_satisfies, shares_satisfy, tables

__all__ = ["TreeShapley"]

Index = NDArray[np.intp]
Between = Callable[[], None]

# Up to so many players on a path tables are made: d² 2^d for a leaf, once, against d² / 2 or d × background for each row. A
# fixed number, whatever the rows are.
TABLE_PLAYERS: dict[Algorithm, int] = {"path_dependent": 8, "interventional": 10}
PIECE_ELEMENTS = (
    2**18
)  # of one piece of work: patterns, or what is looked up of them; it stays in the processor's cache
KEPT_ELEMENTS = 2**23  # of tables that are kept, 64 MiB; those of larger ensembles are made again for each request
MOST_PATTERNS = 2**28  # of the background
ROWS_PER_PATTERN = (
    3  # a table that is not kept costs about what a third as many rows as it has patterns cost without it
)
BLOCK_ROWS = 2**9  # for which the patterns of all leaves are held, if that is not too many


@dataclass(frozen=True)
class _Part:
    """Some leaves with the same number of players on their paths; its entries are their slots, ordered by player."""

    leaves: Index
    length: int
    leaf: Index  # [entries] an index of `leaves`
    slot: Index  # [entries]
    players: Index  # [runs]
    starts: tuple[int, ...]  # of the runs of entries that have one player, and the end

    @property
    def table_elements(self) -> int:
        return len(self.leaf) << self.length


class TreeShapley:
    """`values` are the attributions of the ensemble's scores to `players`; those of a row depend on the rows beside it
    in their last digit at most, by the order in which sums are taken.

    `background` are rows as the trees see them, with weights that add up to 1. `player_of_column` maps their columns. Raises
    NotReadable for covers that do not fit and paths with too many players. Nothing is changed later, so threads may share it.
    """

    def __init__(
        self,
        trees: Trees,
        player_of_column: Index,
        players: int,
        background: Array,
        weights: Floats,
        algorithm: Algorithm = "interventional",
        covers: Floats | None = None,
        between: Between = lambda: None,
    ) -> None:
        self._trees = trees
        self.players = players
        self._algorithm = algorithm
        self._weights = weights
        self.covers: CoversFrom = ""
        share = np.ones(len(trees.feature))
        if algorithm == "path_dependent":
            share = self._shares(background, weights, covers, between)
        self._paths = Paths.of(trees, player_of_column, share)
        leaves = len(self._paths.leaves)
        self._background = np.zeros((leaves, 0), self._paths.dtype)
        if algorithm == "interventional":
            if leaves * len(background) > MOST_PATTERNS:
                raise NotReadable(
                    f"expected at most {MOST_PATTERNS // leaves} background rows for {leaves} leaves, got {len(background)}"
                )
            step = max(1, PIECE_ELEMENTS // leaves)
            pieces = []
            for at in range(0, len(background), step):
                between()
                pieces.append(self._paths.patterns(background[at : at + step]))
            self._background = np.concatenate(pieces, axis=1)
        self._values = trees.values[self._paths.leaves]
        self._parts = self._cut()
        in_tables = [part for part in self._parts if part.length <= TABLE_PLAYERS[algorithm]]
        self._tables: dict[int, Floats] = {}
        if sum(part.table_elements for part in in_tables) <= KEPT_ELEMENTS:
            for part in in_tables:
                between()
                self._tables[id(part)] = self._table(part)
        self.base = trees.base + self._reached() @ self._values

    @property
    def longest_path(self) -> int:
        return int(self._paths.length.max())

    def values(self, matrix: Array, between: Between = lambda: None) -> Floats:
        """[rows, players, scores] for rows as the trees see them."""
        scores = self._values.shape[1]
        attributions = np.zeros((self.players, scores, len(matrix)))
        leaves = len(self._paths.leaves)
        block = max(1, min(BLOCK_ROWS, KEPT_ELEMENTS // leaves))
        for start in range(0, len(matrix), block):
            rows = slice(start, min(start + block, len(matrix)))
            patterns = self._patterns(matrix[rows], between)
            for part in self._parts:
                self._add(part, patterns, attributions[:, :, rows], between)
        return np.ascontiguousarray(attributions.transpose(2, 0, 1))

    def _patterns(self, matrix: Array, between: Between) -> NDArray[Any]:
        step = max(1, PIECE_ELEMENTS // len(self._paths.leaves))
        found = []
        for at in range(0, len(matrix), step):
            between()
            found.append(self._paths.patterns(matrix[at : at + step]))
        return np.concatenate(found, axis=1)

    def _add(self, part: _Part, patterns: NDArray[Any], attributions: Floats, between: Between) -> None:
        deep = self._is_deep(part, patterns.shape[1])
        kept = self._tables.get(id(part))
        table = None if deep else (self._table(part) if kept is None else kept)
        entries = len(part.leaves) * self._work(part.length, deep)
        step = max(1, PIECE_ELEMENTS // max(entries, 1))
        values = self._values[part.leaves]
        offsets = (np.arange(len(part.leaf)) << part.length)[:, None] if table is not None else None
        for at in range(0, patterns.shape[1], step):
            between()
            piece = patterns[part.leaves, at : at + step]
            found = self._deep(part, piece) if table is None else np.take(table, piece[part.leaf] + offsets)
            for run, player in enumerate(part.players):
                these = slice(part.starts[run], part.starts[run + 1])
                attributions[player, :, at : at + step] += values[part.leaf[these]].T @ found[these]

    def _deep(self, part: _Part, patterns: NDArray[Any]) -> Floats:
        """[entries, rows]"""
        if self._algorithm == "path_dependent":
            values = by_shares(patterns, self._paths.shares[part.leaves, : part.length])
        else:
            values = against_background(patterns, self._background[part.leaves], self._weights, part.length)
        found: Floats = values[part.leaf, part.slot]
        return found

    def _table(self, part: _Part) -> Floats:
        """[entries, 2^d]"""
        if self._algorithm == "path_dependent":
            satisfied = shares_satisfy(self._paths.shares[part.leaves, : part.length])
        else:
            satisfied = background_satisfies(self._background[part.leaves], self._weights, part.length)
        table: Floats = tables(satisfied, part.length)[part.leaf, part.slot]
        return table

    def _reached(self) -> Floats:
        """[leaves]: how much of what stands for "unknown" comes there."""
        if self._algorithm == "path_dependent":
            product: Floats = self._paths.shares.prod(axis=1)
            return product
        reached: Floats = (self._background == self._paths.full[:, None]) @ self._weights
        return reached

    def _work(self, length: int, deep: bool) -> int:
        """For one leaf and one row, about, in elements."""
        if not deep:
            return length
        return length * length if self._algorithm == "path_dependent" else length + self._background.shape[1]

    def _is_deep(self, part: _Part, rows: int) -> bool:
        """Whether it costs less to work without a table for so many rows."""
        if part.length > TABLE_PLAYERS[self._algorithm]:
            return True
        return id(part) not in self._tables and ROWS_PER_PATTERN * rows < 2**part.length

    def _cut(self) -> list[_Part]:
        """Parts whose tables, or whose work for a row, are pieces."""
        parts = []
        for length in np.unique(self._paths.length):
            if length == 0:
                continue  # a tree of one leaf is the same for every row
            of_length = np.flatnonzero(self._paths.length == length)
            deep = self._work(int(length), True)
            each = deep if length > TABLE_PLAYERS[self._algorithm] else max(deep, int(length) << int(length))
            step = max(1, PIECE_ELEMENTS // each)
            parts += [self._part(of_length[at : at + step], int(length)) for at in range(0, len(of_length), step)]
        return parts

    def _part(self, leaves: Index, length: int) -> _Part:
        player = self._paths.players[leaves, :length].ravel()
        order = np.argsort(player, kind="stable")
        players, starts = np.unique(player[order], return_index=True)
        leaf, slot = np.divmod(order, length)
        return _Part(leaves, length, leaf, slot, players, (*starts.tolist(), len(order)))

    def _shares(self, background: Array, weights: Floats, covers: Floats | None, between: Between) -> Floats:
        if covers is not None:
            self.covers, cover = "given", given(self._trees, covers)
        elif self._trees.cover is not None:
            self.covers, cover = "graph", self._trees.cover
        else:
            self.covers, cover = "background", counted(self._trees, background, weights, between)
        return shares(self._trees, cover)
