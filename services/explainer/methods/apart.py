"""Pairs of permutations in which every background row has its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.explainer.coalitions import Masks
from services.explainer.estimate import Floats
from services.explainer.threads import Threads
from services.explainer.value import Value

__all__ = ["Apart"]

GROUP_VALUES = 2**20  # answers that are held at a time, in elements: 8 MiB
HELD_MASKS = 2**23  # masks of one pair, in bytes
SUM_ELEMENTS = 4  # what an answer costs besides, in elements of arithmetic


class Apart:
    """A sample is the weighted mean, over the background rows b, of what one antithetic pair of permutations attributes in the
    game whose players are unknown as in b. Attributions are linear in the game, so that mean is unbiased whichever permutations
    the games have. When each has its own, their errors are independent, and the variance of n alike games is an n-th of one's;
    with shared permutations it would be one's, for as many rows to ask about (stratified sampling: Cochran, "Sampling
    Techniques", 1977, ch. 5).

    Only means of answers are linear in them: a link that is taken of the mean needs permutations that all background rows share.
    """

    def __init__(self, value: Value, base: Floats, predictions: Floats, players: int, threads: Threads) -> None:
        self._value = value
        self._weights = value.weights
        self._gained = predictions - base
        self._predictions = predictions
        self._players = players
        self._threads = threads

    @staticmethod
    def fits(value: Value, players: int, columns: int) -> bool:
        """Whether there is a background to tell apart, and one pair of one row is not too much to hold."""
        backgrounds = len(value.weights)
        masks = 2 * (players - 1) * backgrounds
        return (
            backgrounds > 1
            and value.link == "identity"
            and masks * players <= HELD_MASKS
            and masks * columns <= GROUP_VALUES
        )

    def most(self) -> int:
        """Pairs of a round, by what is held."""
        columns = self._gained.shape[1]
        most: int = max(1, min(HELD_MASKS // self._players, GROUP_VALUES // max(columns, 1)) // self._pair_masks)
        return most

    @property
    def _pair_masks(self) -> int:
        return 2 * (self._players - 1) * len(self._weights)

    def draw(self, draw: np.random.Generator, pairs: int) -> NDArray[np.intp]:
        """Ranks [pairs, backgrounds, players], drawn pair by pair."""
        in_order = np.broadcast_to(np.arange(self._players), (len(self._weights), self._players))
        return np.array([draw.permuted(in_order, axis=1) for _ in range(pairs)], np.intp)

    async def samples(self, ranks: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """One sample of each pair, [pairs, rows, players, columns], and by how much one unlike answer could move one, [rows,
        columns]: what the answers of a game span, by its weight; that of the game where it is most."""
        pairs, backgrounds, players = ranks.shape
        rows, columns = self._gained.shape
        nobody = await self._value.background()
        masks = await self._threads.run(ranks.size * 2 * players, _masks, ranks)
        of_mask = np.tile(np.arange(backgrounds), len(masks) // backgrounds)
        found, spans = np.empty((pairs, rows, players, columns)), np.zeros((rows, columns))
        each = max(1, GROUP_VALUES // max(1, len(masks) * columns))
        for at in range(0, rows, each):
            group = range(at, min(at + each, rows))
            answers = await self._value.apart(masks, of_mask, group)
            await self._threads.run(SUM_ELEMENTS * answers.size, self._sum, ranks, nobody, answers, group, found, spans)
        return found, spans

    def _sum(
        self, ranks: NDArray[np.intp], nobody: Floats, answers: Floats, group: range, found: Floats, spans: Floats
    ) -> None:
        """Write the samples of a group of rows, and what their answers span."""
        pairs, backgrounds, players = ranks.shape
        rows, columns = slice(group.start, group.stop), nobody.shape[1]
        by_pair = answers.reshape(len(group), pairs, 2, players - 1, backgrounds, columns)
        ends = (len(group), 1, backgrounds, columns)
        first = np.broadcast_to(nobody, ends)
        last = np.broadcast_to(self._predictions[rows, None, None], ends)
        weights = self._weights[:, None]
        for pair in range(pairs):
            sample = found[pair, rows]
            sample[...] = 0.0
            for way, places in enumerate((ranks[pair], players - 1 - ranks[pair])):
                steps = np.concatenate([first, by_pair[:, pair, way], last], axis=1)
                np.maximum(spans[rows], (weights * np.ptp(steps, axis=1)).max(axis=1), out=spans[rows])
                added = np.take_along_axis(np.diff(steps, axis=1), places.T[None, :, :, None], axis=1)
                for background, weight in enumerate(self._weights):  # in one order, whatever else is in the group
                    sample += weight / 2 * added[:, :, background]
            # The background may have been asked about again since its mean was taken, and rounding is shared too.
            sample += ((self._gained[rows] - sample.sum(axis=1)) / players)[:, None]


def _masks(ranks: NDArray[np.intp]) -> Masks:
    """The coalitions between nobody and all in order of pair, way, step and background row, [all of them, players]."""
    players = ranks.shape[2]
    steps = np.arange(players - 1)[:, None, None]
    both = np.stack([ranks[:, None] <= steps, (players - 1 - ranks)[:, None] <= steps], axis=1)
    return both.reshape(-1, players)
