"""Shapley values from antithetic pairs of permutations, with their standard error."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable

import numpy as np
from numpy.typing import NDArray

from services.explainer.coalitions import Masks, chain
from services.explainer.estimate import Estimate, Floats
from services.explainer.methods.apart import Apart
from services.explainer.methods.pace import PAIRS_TO_TRUST, ROUND_VALUES, Pace, Plan, before, values_before
from services.explainer.methods.running import Running
from services.explainer.threads import Threads
from services.explainer.value import Value

__all__ = ["evaluations_of", "pairs_within", "permutation"]

ROUND_PAIRS = 256  # of small pairs: some 10 ms in a thread, which keeps the interpreter meanwhile
PAIR_ELEMENTS = 1000  # what a pair costs besides its values, in elements of arithmetic


def evaluations_of(pairs: int, players: int) -> int:
    """Coalitions whose value so many pairs take: those within each permutation, and none and all once."""
    return 2 + 2 * pairs * (players - 1)


def pairs_within(evaluations: int, players: int) -> int:
    """The pairs that so many evaluations are enough for; 0: not for one."""
    if players == 1:
        return 1  # nothing lies between none and all: pairs are free, and all the same
    return max(0, evaluations - 2) // (2 * (players - 1))


async def permutation(
    value: Value,
    base: Floats,
    predictions: Floats,
    players: int,
    plan: Plan,
    threads: Threads,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Estimate, None]:
    """Better and better estimates, one after each round of asking; none when not one pair could be done before `stop`.

    In the order of a permutation each player adds something to those before it; the mean of that over permutations is the
    attribution (Castro, Gómez, Tejada, "Polynomial calculation of the Shapley value based on sampling", 2009). Permutations
    come in pairs, one the reverse of the other (Mitchell, Cooper, Frank, Holmes, "Sampling permutations for Shapley value
    estimation", 2022): the mean of a pair is one sample, and the samples' variance gives the standard error: see `Running`. What
    each permutation attributes adds up to prediction less base value, so every estimate does.

    All rows of a request share the permutations, drawn from the seed alone: a row gets the same answer whichever rows are
    beside it, and however the work is cut into rounds. Up to two players join in no other orders than those of one pair,
    which then is exact and all that is done. Background rows have permutations of their own where that can be: see `Apart`.
    """
    draw = np.random.default_rng(plan.seed)
    running = Running(len(predictions), players, predictions.shape[1])
    inner = 2 * (players - 1)
    held = max(1, inner * max(predictions.size, players // 8))  # values, and masks of a byte
    most = min(ROUND_PAIRS, max(1, ROUND_VALUES // held))
    certain = players <= 2 or not len(predictions)
    pairs = min(plan.pairs, 1) if certain else plan.pairs
    apart: Apart | None = None
    if not certain and Apart.fits(value, players, predictions.shape[1]):
        apart = Apart(value, base, predictions, players, threads)
        most = min(most, apart.most())
    pace = Pace(max(1, value.cost(inner)), most, plan.stop, clock)

    seen: set[bytes] = set()  # pairs, until there are two: the same one again tells nothing of the error

    def drawn(size: int) -> tuple[list[NDArray[np.intp]], Masks]:
        ranks = [draw.permutation(players) for _ in range(size)]
        return ranks, np.concatenate([part for each in ranks for part in (chain(each), chain(players - 1 - each))])

    def sample_of(ranks: NDArray[np.intp], values: Floats) -> Floats:
        sample = _added(ranks, values[:, : players - 1], base, predictions)
        sample += _added(players - 1 - ranks, values[:, players - 1 :], base, predictions)
        sample /= 2
        return sample

    def add(ranks: NDArray[np.intp], sample: Floats) -> None:
        if len(seen) < 2:
            seen.add(_named(ranks))
        running.add(sample)

    def add_all(ranks: list[NDArray[np.intp]], values: Floats) -> None:
        for number, each in enumerate(ranks):
            between = values[:, number * inner : (number + 1) * inner]
            add(each, sample_of(each, between))
            ends = np.stack([np.broadcast_to(base, predictions.shape), predictions], axis=1)
            running.spans(np.ptp(np.concatenate([ends, between], axis=1), axis=1))

    def add_samples(ranks: NDArray[np.intp], samples: Floats, spans: Floats) -> None:
        running.spans(spans)
        for each, sample in zip(ranks, samples, strict=True):
            add(each, sample)

    while running.done < pairs and not plan.stop.expired:
        await asyncio.sleep(0)  # small rounds are done without a thread, and a model may answer at once
        pace.begin()
        size = min(pace.size, pairs - running.done)
        if apart is not None:
            orders = await threads.run(size * len(value.weights) * players, apart.draw, draw, size)
            found = await before(plan.stop, apart.samples(orders), is_first=not running.done)
            if found is None:
                return
            await threads.run(size * PAIR_ELEMENTS + 4 * found[0].size, add_samples, orders, *found)
        else:
            ranks, masks = await threads.run(size * (PAIR_ELEMENTS // 2 + inner * players), drawn, size)
            values = await values_before(plan.stop, value, masks, len(predictions), is_first=not running.done)
            if values is None:
                return
            await threads.run(size * (PAIR_ELEMENTS + 4 * values[:, :inner].size), add_all, ranks, values)
        if certain:
            error = np.zeros_like(running.mean)
        elif len(seen) < 2:
            error = np.full_like(running.mean, math.inf)
        else:
            error = await threads.run(8 * running.mean.size, running.error)
        if plan.tolerance is None or certain:
            converged = running.done == pairs
        else:
            converged = running.done >= PAIRS_TO_TRUST and bool((error <= plan.tolerance).all())
        yield Estimate(running.mean.copy(), error, evaluations_of(running.done, players), converged)
        if converged or not pace.goes_on(size):
            return


def _named(ranks: NDArray[np.intp]) -> bytes:
    """The same of a pair whichever of its two permutations comes first."""
    players = ranks.shape[-1]
    return b"".join(min(one.tobytes(), (players - 1 - one).tobytes()) for one in ranks.reshape(-1, players))


def _added(ranks: NDArray[np.intp], values: Floats, base: Floats, predictions: Floats) -> Floats:
    """What each player adds when players join by rank; `values` are those between nobody and everybody."""
    rows, _, columns = values.shape
    steps = np.concatenate([np.broadcast_to(base, (rows, 1, columns)), values, predictions[:, None]], axis=1)
    added: Floats = np.diff(steps, axis=1)[:, ranks]
    return added
