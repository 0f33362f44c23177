"""Attributions from the values of pairs of coalitions: a regression, and how sure it is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.explainer.coalitions import Masks
from services.explainer.estimate import Floats
from services.explainer.methods.running import ROUNDING, widened
from services.explainer.threads import Threads

__all__ = ["Sample", "fit"]

CHUNK = 1024  # pairs at a time: of a thousand players 8 MiB


class Sample(NamedTuple):
    """Pairs of coalitions, each distinct one once: the smaller coalition, its weight (all add up to 1), how often it was drawn
    (0: its size is complete) and v(coalition) − v(complement) [rows, pairs, columns]."""

    masks: Masks
    weights: Floats
    counts: NDArray[np.intp]
    values: Floats

    @property
    def draws(self) -> int:
        return int(self.counts.sum())


async def fit(sample: Sample, gained: Floats, threads: Threads) -> tuple[Floats, Floats]:
    """Attributions [rows, players, columns] and their standard errors; `gained` is what all players get together [rows, columns].

    KernelSHAP is the least-squares fit of v(z) − v(nobody) by z'φ under 1'φ = gained (Lundberg and Lee 2017, theorem 2). With
    z and 1 − z in pairs (Covert and Lee, "Improving KernelSHAP", 2021) what both say of φ together is their difference: the
    same fit is that of y = v(z) − v(1 − z) by u'φ, u = 2z − 1, so a pair is one observation, and the value of nobody cancels
    out. The constraint is solved exactly, by projection, and no feature is left out.

    The variance is that of what was sampled, as there, where it comes from several batches of samples; here it is told by each
    drawn pair, which moves φ by P u w e / (1 − h): its residual e becomes that of a fit without the pair, as the jackknife has it
    (Efron and Stein 1981; h is the pair's leverage). Pairs of complete sizes are no chance and add none.

    Residuals that are all 0 don't say that those of the pairs which were not drawn are: then the error is what one drawn pair
    would move φ by if it were off by all that the values span; where they are all alike, nobody knows. See `Running`.
    """
    rows, _, columns = sample.values.shape
    players = sample.masks.shape[1]
    chunks = [slice(at, at + CHUNK) for at in range(0, len(sample.masks), CHUNK)]
    gram, seen = np.zeros((players, players)), np.zeros((rows, players, columns))
    even = gained / players

    def look(chunk: slice) -> None:
        u, weights = _signs(sample.masks[chunk]), sample.weights[chunk]
        weighed = (u * weights[:, None]).T
        gram[...] += weighed @ u
        left = sample.values[:, chunk] - u.sum(axis=1)[:, None] * even[:, None, :]
        seen[...] += np.matmul(weighed, left)  # row by row: no row depends on its neighbours

    for chunk in chunks:
        size = chunk.stop - chunk.start
        await threads.run(size * players * (players + rows * columns) // 8, look, chunk)
    projection = await threads.run(players**3 // 8, _projection, gram)
    attributions = even[:, None, :] + np.matmul(projection, seen)
    attributions += ((gained - attributions.sum(axis=1)) / players)[:, None, :]  # rounding

    draws = sample.draws
    if np.count_nonzero(sample.counts) < 2:  # one pair, however often it was drawn, can't tell
        return attributions, np.full_like(attributions, np.inf if draws else 0.0)
    moved, squares = np.zeros_like(attributions), np.zeros_like(attributions)
    span = np.maximum(np.abs(sample.values).max(axis=1), np.abs(gained))  # [rows, columns]
    largest, each = np.zeros_like(span), np.zeros(players)

    def doubt(chunk: slice) -> None:
        counts = sample.counts[chunk]
        drawn = counts > 0
        u, counts = _signs(sample.masks[chunk][drawn]), counts[drawn]
        one = sample.weights[chunk][drawn] / counts
        moves = u @ projection  # [pairs, players]
        leverage = one * (moves * u).sum(axis=1)
        residuals = sample.values[:, chunk][:, drawn] - np.matmul(u, attributions)
        np.maximum(largest, np.abs(residuals).max(axis=1, initial=0.0), out=largest)
        shares = one / np.maximum(1 - leverage, 1e-6)
        each[...] += (counts * shares**2) @ moves**2
        residuals *= shares[:, None]
        moved[...] += np.matmul((moves * counts[:, None]).T, residuals)
        squares[...] += np.matmul((moves**2 * counts[:, None]).T, residuals**2)

    for chunk in chunks:
        size = chunk.stop - chunk.start
        await threads.run(size * players * (players + 2 * rows * columns) // 8, doubt, chunk)
    variance = (squares - moved**2 / draws) * draws / (draws - 1)
    once = np.sqrt(each / draws)[:, None]  # how far one draw moves each player, for a residual of 1
    error: Floats = np.sqrt(np.maximum(variance, 0.0) + (largest[:, None] * once) ** 2 / draws)
    error = np.where((largest > ROUNDING * span)[:, None], error, span[:, None] * once)
    error = np.where(span[:, None] > 0, error * widened(draws - 1), np.inf)
    return attributions, error


def _signs(masks: Masks) -> Floats:
    return np.where(masks, 1.0, -1.0)


def _projection(gram: Floats) -> Floats:
    """The inverse on what adds up to 0. Any multiple of 11' may be added to `gram`, since 1'φ is given; so it is regular."""
    inverse = np.linalg.inv(gram + np.mean(np.diag(gram)))
    sums = inverse.sum(axis=1)
    projection: Floats = inverse - np.outer(sums, sums) / sums.sum()
    return projection
