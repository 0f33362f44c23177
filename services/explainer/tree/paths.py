"""The players on the way to each leaf, and which of them a row satisfies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array
from services.explainer.estimate import Floats
from services.explainer.graph import NotReadable
from services.explainer.graph.trees import Trees
from services.explainer.tree.decide import goes_true

__all__ = ["MOST_PLAYERS", "Paths"]

Index = NDArray[np.intp]

MOST_PLAYERS = 62  # on one path: a bit each, in 64 with a sign
MOST_SLOTS = 2**26  # of all paths together


@dataclass(frozen=True)
class Paths:
    """Leaves in the order of the trees' nodes.

    The players on the path to a leaf are numbered as they come: those are its slots. All conditions of a player are one, so that
    a row's way to a leaf is a pattern of bits, one per slot, set where the row satisfies the player's conditions.
    """

    trees: Trees
    leaves: Index  # [leaves] their nodes
    players: Index  # [leaves, slots]; -1 past the leaf's own
    shares: Floats  # [leaves, slots] the product of the shares of the player's branches
    length: Index  # [leaves] slots in use
    slot: Index  # [nodes] the bit of an inner node's player

    @classmethod
    def of(cls, trees: Trees, player_of_column: Index, share: Floats) -> Paths:
        """`share` is that of each node in its parent's rows. Raises NotReadable for paths with more than 62 players."""
        slot = np.zeros(len(trees.feature), np.intp)
        roots = trees.levels[1]
        players, shares = np.full((roots, 1), -1, np.intp), np.ones((roots, 1))
        length = np.zeros(roots, np.intp)
        ended: list[tuple[Index, Index, Floats, Index]] = []
        held = 0
        for start, end in zip(trees.levels[:-1], trees.levels[1:], strict=True):
            is_leaf = trees.is_leaf[start:end]
            at_leaf, inner = np.flatnonzero(is_leaf), np.flatnonzero(~is_leaf)
            ended.append((start + at_leaf, players[at_leaf], shares[at_leaf], length[at_leaf]))
            held += len(at_leaf) * players.shape[1]
            if held + 2 * len(inner) * players.shape[1] > MOST_SLOTS:
                raise NotReadable(f"expected at most {MOST_SLOTS} conditions on all paths of the trees")
            if not len(inner):
                break
            nodes, players, shares, length = start + inner, players[inner], shares[inner], length[inner]
            player = player_of_column[trees.feature[nodes]]
            same = players == player[:, None]
            bit = np.where(same.any(axis=1), same.argmax(axis=1), length)
            length = np.maximum(length, bit + 1)
            if length.max() > MOST_PLAYERS:
                raise NotReadable(f"a path with more than {MOST_PLAYERS} features")
            if length.max() > players.shape[1]:
                players = np.pad(players, ((0, 0), (0, 1)), constant_values=-1)
                shares = np.pad(shares, ((0, 0), (0, 1)), constant_values=1.0)
            which = np.arange(len(inner))
            players[which, bit] = player
            slot[nodes] = bit
            players, length = np.repeat(players, 2, axis=0), np.repeat(length, 2)
            shares = np.repeat(shares, 2, axis=0)
            children = np.stack([trees.true[nodes], trees.false[nodes]], axis=1).ravel()
            shares[np.arange(len(children)), np.repeat(bit, 2)] *= share[children]
        width = max(part[1].shape[1] for part in ended)
        return cls(
            trees,
            np.concatenate([part[0] for part in ended]),
            np.concatenate([_widened(part[1], width, -1) for part in ended]),
            np.concatenate([_widened(part[2], width, 1.0) for part in ended]),
            np.concatenate([part[3] for part in ended]),
            slot,
        )

    @property
    def dtype(self) -> Any:
        """The smallest that holds a pattern: most of the work is moving them."""
        longest = int(self.length.max())
        return next(kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64) if longest <= 8 * kind().itemsize)

    def patterns(self, matrix: Array) -> NDArray[Any]:
        """[leaves, rows]: the pattern of each row at each leaf; bits that are no slot of the leaf are 0."""
        trees, dtype = self.trees, self.dtype
        columns = np.ascontiguousarray(matrix.T)
        found = np.empty((len(self.leaves), len(matrix)), dtype)
        above = np.full((trees.levels[1], len(matrix)), ~dtype(0), dtype)
        leaf = 0
        for start, end in zip(trees.levels[:-1], trees.levels[1:], strict=True):
            is_leaf = trees.is_leaf[start:end]
            ending = int(is_leaf.sum())
            found[leaf : leaf + ending] = above[is_leaf]
            leaf += ending
            if ending == end - start:
                break
            inner = np.flatnonzero(~is_leaf)
            nodes = start + inner
            bits = (dtype(1) << self.slot[nodes].astype(dtype))[:, None]
            true = goes_true(trees, nodes, columns).view(np.uint8).astype(dtype, copy=False)
            here = above[inner]
            below = np.empty((2 * len(inner), len(matrix)), dtype)
            passed = true * bits  # the bit where the row goes to "true": it fails the other child
            np.bitwise_and(here, passed | ~bits, out=below[0::2])
            np.bitwise_and(here, ~passed, out=below[1::2])
            above = below
        found &= self.full[:, None]
        return found

    @property
    def full(self) -> NDArray[Any]:
        """[leaves]: the pattern of a row that comes to the leaf."""
        ones = (np.uint64(1) << self.length.astype(np.uint64)) - np.uint64(1)
        return ones.astype(self.dtype)


def _widened(array: Any, width: int, fill: float) -> Any:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)
