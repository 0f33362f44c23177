"""Which pairs of coalitions KernelSHAP asks about, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice
from math import comb
from typing import NamedTuple

import numpy as np

from services.explainer.coalitions import Masks
from services.explainer.estimate import Floats

__all__ = ["Design", "Step", "all_pairs", "fewest_pairs", "kernel_shares"]

CHUNK = 256  # pairs that are made together
FIRST_DRAWS = 16  # before larger sizes are enumerated: fewer tell too little of how sure an answer is


def all_pairs(players: int) -> int:
    """Pairs of a coalition and its complement, but for none and all."""
    return (1 << players - 1) - 1


def fewest_pairs(players: int) -> int:
    """Those of one player against all others, which no attribution can be told without, and as many draws."""
    return min(all_pairs(players), 2 * players)


def kernel_shares(players: int) -> Floats:
    """Of the kernel's weight, what the pairs of sizes 1, 2, …, players // 2 have."""
    half = np.arange(1, players // 2 + 1)
    weights: Floats = (players - 1) / (half * (players - half)) * np.where(2 * half == players, 1, 2)
    shares: Floats = weights / weights.sum()
    return shares


class Step(NamedTuple):
    """Some pairs of the design, each by its smaller coalition. `size`: they are all of that size, or some of all of them; 0: they
    are drawn. `is_last`: with them their size is complete."""

    masks: Masks
    size: int = 0
    is_last: bool = False


class Design:
    """A pair of a coalition of s players and its complement weighs as much as the Shapley kernel gives both of them:
    (M − 1) / (s (M − s)) for all of that size together, twice that unless s = M/2 (Lundberg and Lee 2017, theorem 2).

    As in shap, sizes are enumerated from the smallest on while the pairs that are left are enough for it, going by the size's
    share of what is left; the rest of the pairs is drawn from all other sizes by their weights, with replacement. Before the
    second size is enumerated some pairs are drawn, so that there is an answer early; those whose size is complete later count no
    more.
    """

    def __init__(self, players: int, pairs: int, seed: int) -> None:
        self.players = players
        self.shares: Floats = kernel_shares(players)
        self.complete = self._complete(pairs)
        """Sizes 1 … `complete` are enumerated."""
        self.draws = (
            0 if self.complete == len(self.shares) else pairs - sum(map(self.count, range(1, self.complete + 1)))
        )
        """Pairs that are drawn of the other sizes in the end."""
        self._random = np.random.default_rng(seed)

    def count(self, size: int) -> int:
        """Pairs whose smaller coalition has that many players."""
        return comb(self.players, size) // (2 if 2 * size == self.players else 1)

    def steps(self) -> Iterator[Step]:
        """All of it, in order; the same for a seed however it is gone through."""
        yield from self._all_of(1)
        drawn = 0
        if len(self.shares) > 1:
            first = max(FIRST_DRAWS, self.players)
            if self.draws:
                first = min(first, self.draws)
            for step in self._drawn(first, 2):
                drawn += int((step.masks.sum(axis=1) > self.complete).sum())
                yield step
        for size in range(2, self.complete + 1):
            yield from self._all_of(size)
        if self.draws > drawn:
            yield from self._drawn(self.draws - drawn, self.complete + 1)

    def _complete(self, pairs: int) -> int:
        left, share_left = pairs - self.count(1), 1.0 - self.shares[0]
        for size in range(2, len(self.shares) + 1):
            share = self.shares[size - 1] / share_left if size < len(self.shares) else 1.0
            too_few_left = size < len(self.shares) and left - self.count(size) < self.players
            if too_few_left or self.count(size) > left * share * (1 + 1e-12):
                return size - 1
            left -= self.count(size)
            share_left -= self.shares[size - 1]
        return len(self.shares)

    def _all_of(self, size: int) -> Iterator[Step]:
        count, made = self.count(size), 0
        chosen = combinations(range(self.players), size)  # of half of the players: the first half has player 0
        while made < count:
            members = np.array(list(islice(chosen, min(CHUNK, count - made))))
            masks = np.zeros((len(members), self.players), np.bool_)
            np.put_along_axis(masks, members, values=True, axis=1)
            made += len(members)
            yield Step(masks, size, made == count)

    def _drawn(self, pairs: int, smallest: int) -> Iterator[Step]:
        """Sizes by their weights, members with the same chance each; one number for the size and one for each player."""
        upto = np.cumsum(self.shares[smallest - 1 :])
        for at in range(0, pairs, CHUNK):
            numbers = self._random.random((min(CHUNK, pairs - at), self.players + 1))
            sizes = smallest + np.searchsorted(upto / upto[-1], numbers[:, 0], side="right")
            ranks = numbers[:, 1:].argsort(axis=1).argsort(axis=1)
            masks = ranks < sizes[:, None]
            halves = (2 * sizes == self.players) & ~masks[:, 0]
            masks[halves] = ~masks[halves]  # one name for a pair of equal halves
            yield Step(masks)
