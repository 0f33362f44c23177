"""An ensemble of trees as arrays over nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.explainer.estimate import Floats
from services.explainer.graph.refusal import NotReadable

__all__ = ["LEAF", "MODES", "Trees", "in_levels"]

Index = NDArray[np.intp]

MOST_LEVELS = 4096  # each is a round of work of its own
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")  # numbered as in opset 5
LEAF = -1


@dataclass(frozen=True)
class Trees:
    """Nodes level by level through all trees: the roots first, and on each level the two children of each inner node of the
    level above side by side, the one for "true" first, in the order of their parents.

    A leaf is its own child. `values` [nodes, scores] are zero but at leaves. The scores of a row are the sum over the trees of
    the values of the leaves that it comes to, and `base`.
    """

    feature: Index  # 0 at leaves
    threshold: NDArray[Any]  # FP32, or FP64 where ONNX Runtime compares in it
    mode: NDArray[np.int8]  # an index of MODES, or LEAF
    missing_true: NDArray[np.bool_]
    true: Index
    false: Index
    values: Floats
    base: Floats
    levels: tuple[int, ...]  # where each level begins, and the end of the last
    cover: Floats | None  # by node, when the file tells it
    order: Index  # the place of each node in the file
    trees: int

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.mode == LEAF
        return found


def in_levels(
    where: str, is_leaf: NDArray[np.bool_], true: Index, false: Index, roots: Index
) -> tuple[Index, tuple[int, ...]]:
    """The nodes in the order that `Trees` wants, and the levels. Raises NotReadable unless they are trees: each node has one
    parent, all are reached from a root, no path comes back to itself."""
    nodes = len(is_leaf)
    inner = ~is_leaf
    children = np.concatenate([true[inner], false[inner]])
    if children.size and not 0 <= children.min() <= children.max() < nodes:
        raise NotReadable(f"{where}: a branch leads to a node that there is not")
    parents = np.bincount(np.concatenate([children, roots]), minlength=nodes)
    if (parents > 1).any():
        raise NotReadable(f"{where}: node number {int(parents.argmax())} has several parents: it is no tree")
    levels, order = [0], [roots]
    level = roots
    while level.size:
        if len(levels) > MOST_LEVELS:
            raise NotReadable(f"{where}: a tree is deeper than {MOST_LEVELS} levels")
        levels.append(levels[-1] + level.size)
        branching = level[inner[level]]
        level = np.stack([true[branching], false[branching]], axis=1).ravel()
        order.append(level)
    if levels[-1] != nodes:
        raise NotReadable(
            f"{where}: {nodes - levels[-1]} of {nodes} nodes are not reached from a root: there is a cycle"
        )
    return np.concatenate(order), tuple(levels)
