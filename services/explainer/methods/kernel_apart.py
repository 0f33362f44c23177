"""KernelSHAP in which every background row has pairs of coalitions of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

import numpy as np
from numpy.typing import NDArray

from services.explainer.coalitions import Masks
from services.explainer.estimate import Estimate, Floats
from services.explainer.methods.kernel_design import all_pairs, kernel_shares
from services.explainer.methods.pace import PAIRS_TO_TRUST, Pace, Plan, before
from services.explainer.methods.running import Running
from services.explainer.threads import Threads
from services.explainer.value import Value

__all__ = ["fits", "kernel_apart", "rows_at_once"]

FEWEST_BACKGROUNDS = 32  # of fewer a regression over pairs that all share is as good, or better
FEWEST_DRAWS = 5  # of fewer no error is told, unless there are no more
GROUP_VALUES = 2**20  # answers that are held at a time, in elements: 8 MiB
HELD_VALUES = 2**24  # first estimates of the rows of a group against the background rows, in elements: 128 MiB
HELD_MASKS = 2**23  # masks of a round, in bytes


def fits(value: Value, players: int, columns: int, pairs: int) -> bool:
    """Whether it is better than shared pairs, and not too much to hold of one row; rows beside it are no part of it. Most pairs
    are better asked about for all background rows: they are next to exact then."""
    backgrounds = len(value.weights)
    return (
        value.link == "identity"
        and backgrounds >= FEWEST_BACKGROUNDS
        and players > 3
        and pairs <= all_pairs(players) // 2
        and backgrounds * players * columns <= HELD_VALUES
        and 2 * backgrounds * players * max(players, columns) <= HELD_MASKS
    )


def rows_at_once(value: Value, players: int, columns: int) -> int:
    """How many rows are not too much to hold."""
    return max(1, HELD_VALUES // (len(value.weights) * players * max(columns, 1)))


async def kernel_apart(
    value: Value,
    base: Floats,
    predictions: Floats,
    players: int,
    plan: Plan,
    threads: Threads,
    clock: Callable[[], float] = time.monotonic,
    first_row: int = 0,
) -> AsyncGenerator[Estimate, None]:
    """Better and better estimates; none when the fewest pairs could not be done before `stop`. The plan has more pairs than there
    are players.

    Attributions are linear in the game, so they are the weighted mean over the background rows b of those of the game whose
    players are unknown as in b; with pairs of its own for each, errors are independent and average out. For each b all pairs
    of one player against the others are asked about, whose fit is φ₀; then one drawn pair u = 2z − 1 of the other sizes at a
    time, by the kernel's weights: φ₀ + A⁻¹ E[u (y − u'φ₀)], y = v(z) − v(1 − z), under the constraint. A = E[uu'] is what the
    whole kernel gives, so there is no bias (Covert and Lee, "Improving KernelSHAP", 2021, section 3.2, with φ₀ as control
    variate); on the first pairs y − u'φ₀ is the same for all players, which adds nothing. One pair for each b is a sample; their
    variance gives the standard error. In a sample the sizes are drawn systematically, so each comes as often as it weighs.
    """
    rows, columns = predictions.shape
    sampler = _Sampler(value, base, predictions, players, threads, first_row)
    draw = np.random.default_rng(plan.seed)
    pair = 2 * len(value.weights)
    held = max(pair * players // 8, pair * columns, rows * players * columns)  # of a pair, in elements
    most = max(1, GROUP_VALUES // held)
    pace = Pace(max(1, value.cost(2)), most, plan.stop, clock)
    if plan.stop.expired:
        return
    pace.begin()
    first = await before(plan.stop, sampler.first(), is_first=True)
    if first is None or not pace.goes_on(players):
        return
    draws, told = plan.pairs - players, 0
    running = Running(rows, players, columns)

    def add(samples: Floats) -> None:
        running.spans(sampler.spans)
        for sample in samples:
            running.add(sample)

    async def estimate() -> Estimate:
        error = await threads.run(8 * first.size, running.error)
        if plan.tolerance is None:
            converged = running.done == draws
        else:
            converged = running.done >= max(PAIRS_TO_TRUST, players) and bool((error <= plan.tolerance).all())
        return Estimate(first + running.mean, error, 2 + 2 * (players + running.done), converged)

    while running.done < draws and not plan.stop.expired:
        await asyncio.sleep(0)  # small rounds are done without a thread, and a model may answer at once
        pace.begin()
        size = min(pace.size, draws - running.done)
        masks = await threads.run(4 * size * pair * players, sampler.draw, draw, size)
        samples = await before(plan.stop, sampler.samples(masks), is_first=running.done < FEWEST_DRAWS)
        if samples is None:
            break
        await threads.run(4 * samples.size, add, samples)
        goes_on = pace.goes_on(size)
        if running.done >= min(FEWEST_DRAWS, draws) or (running.done > 1 and not goes_on):
            told = running.done
            better = await estimate()
            yield better
            if better.converged or not goes_on:
                return
        elif not goes_on:
            break
    if running.done > max(told, 1):
        yield await estimate()


class _Sampler:
    """Asks, and makes samples of the answers."""

    def __init__(
        self, value: Value, base: Floats, predictions: Floats, players: int, threads: Threads, first_row: int
    ) -> None:
        self._value = value
        self._first_row = first_row
        self._weights = value.weights
        self._base = base
        self._predictions = predictions
        self._players = players
        self._threads = threads
        shares = kernel_shares(players)
        self._upto = np.cumsum(shares[1:] / shares[1:].sum())
        sizes = np.arange(1, len(shares) + 1)
        alike = ((players - 2 * sizes) ** 2 - players) / (players * (players - 1))  # E[u_i u_j] of a size
        self._factor = shares[1:].sum() / (
            1 - float(shares @ alike)
        )  # A⁻¹ is 1 / (1 - E[u_i u_j]) on what adds up to 0
        self._fits = np.zeros(0)
        self._nobody = np.zeros(0)
        self.spans: Floats = np.zeros(predictions.shape)
        """What one unlike answer could move a sample by, [rows, columns], by what the answers of a game span and its weight; that
        of the game where it is most."""

    async def first(self) -> Floats:
        """What the pairs of one player against the others say, [rows, players, columns]."""
        rows, columns = self._predictions.shape
        backgrounds, players = len(self._weights), self._players
        nobody = self._nobody = await self._value.background()
        self._fits = np.empty((rows, players, backgrounds, columns))
        found = np.empty((rows, players, columns))
        singles = np.eye(players, dtype=np.bool_).repeat(backgrounds, axis=0)

        def fit(group: slice, differences: Floats) -> None:
            """y_i = 2 φ_i − gained of each player is met but for a constant, which makes all add up."""
            fits = self._fits[group]
            gained = self._predictions[group, None] - nobody  # [rows, backgrounds, columns]
            fits[...] = (differences.reshape(fits.shape) + gained[:, None]) / 2
            fits += ((gained - fits.sum(axis=1)) / players)[:, None]
            found[group] = 0.0
            for background, weight in enumerate(self._weights):
                found[group] += weight * fits[:, :, background]
            left = self._predictions[group] - self._base - found[group].sum(axis=1)
            found[group] += (left / players)[:, None]  # rounding, and a background that was asked about again

        await self._asked(singles, fit)
        return found

    def draw(self, draw: np.random.Generator, pairs: int) -> Masks:
        """For each pair another coalition for each background row, [pairs, backgrounds, players], drawn pair by pair."""
        backgrounds, players = len(self._weights), self._players
        masks = np.empty((pairs, backgrounds, players), np.bool_)
        for pair in masks:
            places = draw.permutation((draw.random() + np.arange(backgrounds)) / backgrounds)
            sizes = 2 + np.searchsorted(self._upto[:-1], places, side="right")
            pair[...] = draw.random((backgrounds, players)).argsort(axis=1).argsort(axis=1) < sizes[:, None]
        return masks

    async def samples(self, masks: Masks) -> Floats:
        """What each pair adds to the first estimate, [pairs, rows, players, columns]."""
        pairs, backgrounds, players = masks.shape
        rows, columns = self._predictions.shape
        found = np.empty((pairs, rows, players, columns))
        signs: NDArray[np.float64] = np.where(masks, 1.0, -1.0)
        moves = (signs - signs.mean(axis=2, keepdims=True)) * (self._weights[:, None] * self._factor)

        def add(group: slice, differences: Floats) -> None:
            by_pair = differences.reshape(-1, pairs, backgrounds, columns)
            for number in range(pairs):
                expected = np.zeros(by_pair.shape[:1] + by_pair.shape[2:])
                for player in range(players):
                    expected += signs[number, :, player, None] * self._fits[group, player]
                left = by_pair[:, number] - expected
                found[number, group] = np.matmul(moves[number].T, left)  # row by row: no row depends on its neighbours

        await self._asked(masks.reshape(-1, players), add)
        return found

    async def _asked(self, masks: Masks, work: Callable[[slice, Floats], None]) -> None:
        """Do the work for groups of rows, each with its answers to the masks less those to their complements, [rows, masks,
        columns]; the masks go through the background rows again and again."""
        rows, columns = self._predictions.shape
        both = np.concatenate([masks, ~masks])
        of_mask = np.tile(np.arange(len(self._weights)), len(both) // len(self._weights))
        each = max(1, GROUP_VALUES // max(1, len(both) * columns))
        for at in range(0, rows, each):
            group = slice(at, min(at + each, rows))
            rows_of_all = range(self._first_row + group.start, self._first_row + group.stop)
            answers = await self._value.apart(both, of_mask, rows_of_all)
            differences = answers[:, : len(masks)] - answers[:, len(masks) :]
            await self._threads.run(answers.size * self._players // 2, work, group, differences)
            await self._threads.run(answers.size, self._see, group, answers)

    def _see(self, group: slice, answers: Floats) -> None:
        rows, _, columns = answers.shape
        of_game = answers.reshape(rows, -1, len(self._weights), columns)
        everybody = self._predictions[group, None]
        most = np.maximum(np.maximum(of_game.max(axis=1), self._nobody), everybody)
        least = np.minimum(np.minimum(of_game.min(axis=1), self._nobody), everybody)
        by_game = (most - least) * (self._weights[:, None] * self._factor)
        np.maximum(self.spans[group], by_game.max(axis=1), out=self.spans[group])
