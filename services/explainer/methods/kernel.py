"""Shapley values by KernelSHAP: pairs of coalitions and a regression, with their standard error."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

import numpy as np

from infermesh.errors import ResourceExhausted
from services.explainer.coalitions import Masks
from services.explainer.estimate import Estimate, Floats
from services.explainer.methods.kernel_apart import fits, kernel_apart, rows_at_once
from services.explainer.methods.kernel_design import Design, Step, all_pairs, fewest_pairs
from services.explainer.methods.kernel_fit import Sample, fit
from services.explainer.methods.pace import PAIRS_TO_TRUST, ROUND_VALUES, Pace, Plan, values_before
from services.explainer.threads import Threads
from services.explainer.value import Value

__all__ = ["kernel", "kernel_pairs_within"]

HELD_VALUES = 2**22  # of all pairs and the rows of a group, in elements: 32 MiB
FEWEST_DRAWS = 5  # of fewer no error can be told
GROWTH = 1.25  # a regression is made when there are so many times the pairs of the last one


def kernel_pairs_within(evaluations: int, players: int) -> int:
    """The pairs that so many evaluations are enough for; 0: too few for an answer."""
    pairs = min(max(0, evaluations - 2) // 2, all_pairs(players))
    return pairs if pairs >= fewest_pairs(players) else 0


async def kernel(
    value: Value,
    base: Floats,
    predictions: Floats,
    players: int,
    plan: Plan,
    threads: Threads,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Estimate, None]:
    """Better and better estimates; none when the fewest pairs could not be done before `stop`. See `Design` and `fit`.

    All rows of a request share the pairs, drawn from the seed alone: a row gets the same answer whichever rows are beside it, and
    however the work is cut into rounds. A pair that is drawn again is not asked about again. When all pairs fit, the answer is
    exact. Many background rows have pairs of their own: see `kernel_apart`. More rows than can be held at a time are explained
    group by group, each in its share of the time. Raises ResourceExhausted for more values of one row than can be held.
    """
    rows, columns = predictions.shape
    if players == 1 or not rows:
        nothing = np.zeros((rows, players, columns))
        yield Estimate(nothing + (predictions - base)[:, None] / players, nothing, 2, converged=True)
        return
    method: Callable[..., AsyncGenerator[Estimate, None]]
    if fits(value, players, columns, plan.pairs):
        each, method = rows_at_once(value, players, columns), kernel_apart
    else:
        most = HELD_VALUES // max(1, columns)
        if most < fewest_pairs(players):
            raise ResourceExhausted(
                f'method "kernel" holds {HELD_VALUES} values, which a row of {columns} columns with {players} features needs '
                'more of; ask for fewer classes, or for method "permutation"',
                reason="TOO_MANY_VALUES",
            )
        each, method = max(1, most // min(plan.pairs, all_pairs(players))), _shared
    earlier: list[Estimate] = []
    for at in range(0, rows, each):
        groups = math.ceil((rows - at) / each)
        stop = plan.stop if groups == 1 else plan.stop.at_most(plan.stop.remaining() / groups)
        of_group = replace(plan, stop=stop)
        last: Estimate | None = None
        asking = method(value, base, predictions[at : at + each], players, of_group, threads, clock, at)
        async with aclosing(asking) as found:
            async for last in found:
                if groups == 1:
                    yield _together([*earlier, last])
        if last is None:
            return
        earlier.append(last)


def _together(groups: list[Estimate]) -> Estimate:
    if len(groups) == 1:
        return groups[0]
    return Estimate(
        np.concatenate([one.attributions for one in groups]),
        np.concatenate([one.std_error for one in groups]),
        max(one.evaluations for one in groups),
        converged=all(one.converged for one in groups),
    )


async def _shared(
    value: Value,
    base: Floats,
    predictions: Floats,
    players: int,
    plan: Plan,
    threads: Threads,
    clock: Callable[[], float],
    first_row: int,
) -> AsyncGenerator[Estimate, None]:
    """With pairs that all background rows share."""
    rows, columns = predictions.shape
    gained = predictions - base
    pairs = min(plan.pairs, all_pairs(players), HELD_VALUES // max(1, columns))
    asked = _Asked(Design(players, pairs, plan.seed), rows, columns)
    pace = Pace(max(1, value.cost(2)), ROUND_VALUES // max(2 * rows * columns, 2 * players // 8), plan.stop, clock)
    fitted, goes_on = 0, True
    while goes_on and not asked.done() and not plan.stop.expired:
        await asyncio.sleep(0)  # small rounds are done without a thread, and a model may answer at once
        pace.begin()
        masks = await threads.run(4 * pace.size * players, asked.next, pace.size)
        if len(masks):
            both = np.concatenate([masks, ~masks])
            values = await values_before(
                plan.stop, value, both, rows, is_first=not asked.is_enough, first_row=first_row
            )
            if values is None:
                break
            asked.add(masks, values[:, : len(masks)] - values[:, len(masks) :])
            goes_on = pace.goes_on(len(masks))
        sample = asked.sample() if asked.done() or not goes_on or asked.pairs >= GROWTH * fitted else None
        if sample is None:
            continue
        estimate = await _estimate(sample, asked, gained, threads, plan, is_all=asked.done() and pairs == plan.pairs)
        fitted = asked.pairs
        yield estimate
        if estimate.converged:
            return
    if asked.pairs > fitted and (sample := asked.sample()) is not None:
        yield await _estimate(sample, asked, gained, threads, plan, is_all=False)


async def _estimate(
    sample: Sample, asked: _Asked, gained: Floats, threads: Threads, plan: Plan, *, is_all: bool
) -> Estimate:
    attributions, error = await fit(sample, gained, threads)
    evaluations = 2 + 2 * asked.pairs
    if not sample.draws:
        return Estimate(attributions, error, evaluations, converged=True)
    if plan.tolerance is None:
        return Estimate(attributions, error, evaluations, converged=is_all)
    trusted = sample.draws >= max(PAIRS_TO_TRUST, sample.masks.shape[1])
    return Estimate(attributions, error, evaluations, converged=trusted and bool((error <= plan.tolerance).all()))


class _Asked:
    """How far the design has come: the pairs that were asked about, each once, and what they stand for in it."""

    def __init__(self, design: Design, rows: int, columns: int) -> None:
        self._design = design
        self._steps = design.steps()
        self._step: Step | None = next(self._steps, None)
        self._at = 0
        self._number: dict[bytes, int] = {}
        self._masks: list[Masks] = []
        self._sizes: list[int] = []
        most = min(all_pairs(design.players), sum(map(design.count, range(1, design.complete + 1))) + design.draws)
        self._values = np.empty((rows, most, columns))  # of zero pages until they are written
        self.pairs = 0
        self._complete: list[list[int]] = []  # by size
        self._unfinished: list[int] = []
        self._drawn: list[tuple[int, int]] = []  # number and size
        self._taken: list[tuple[int, int, bool]] = []  # of the round under way: number, size or 0, last of it

    def done(self) -> bool:
        return self._step is None and not self._taken

    def next(self, most: int) -> Masks:
        """The next pairs that are not known yet, at most so many; those between them that are known come along."""
        new: list[Masks] = []
        while self._step is not None and len(new) < most:
            mask = self._step.masks[self._at]
            key = np.packbits(mask).tobytes()
            number = self._number.get(key)
            if number is None:
                number = self._number[key] = len(self._number)
                new.append(mask)
            self._at += 1
            at_end = self._at == len(self._step.masks)
            self._taken.append((number, self._step.size, at_end and self._step.is_last))
            if at_end:
                self._step, self._at = next(self._steps, None), 0
        if not new:
            self._take()
        return np.array(new, np.bool_).reshape(len(new), self._design.players)

    def add(self, masks: Masks, values: Floats) -> None:
        """The answer to what `next` gave."""
        self._values[:, self.pairs : self.pairs + len(masks)] = values
        self.pairs += len(masks)
        self._masks.append(masks)
        self._sizes += masks.sum(axis=1).tolist()
        self._take()

    def _take(self) -> None:
        for number, size, is_last in self._taken:
            if not size:
                self._drawn.append((number, self._sizes[number]))
                continue
            self._unfinished.append(number)
            if is_last:
                self._complete.append(self._unfinished)
                self._unfinished = []
                self._drawn = [one for one in self._drawn if one[1] > len(self._complete)]
        self._taken = []

    @property
    def is_enough(self) -> bool:
        """Whether every size was enumerated, or drawn with all those that were not."""
        complete = len(self._complete)
        return complete == len(self._design.shares) or (complete > 0 and len(self._drawn) >= FEWEST_DRAWS)

    def sample(self) -> Sample | None:
        """What a regression can be made of; None: not enough yet."""
        if not self.is_enough:
            return None
        design, complete = self._design, len(self._complete)
        numbers = [np.array(members, np.intp) for members in self._complete]
        weights = [np.full(len(m), share / len(m)) for m, share in zip(numbers, design.shares, strict=False)]
        counts = [np.zeros(len(members), np.intp) for members in numbers]
        if self._drawn:
            drawn, often = np.unique(np.array(self._drawn)[:, 0], return_counts=True)
            numbers.append(drawn)
            counts.append(often)
            weights.append(often * (design.shares[complete:].sum() / len(self._drawn)))
        chosen = np.concatenate(numbers)
        return Sample(
            np.concatenate(self._masks)[chosen],
            np.concatenate(weights),
            np.concatenate(counts),
            self._values[:, chosen],
        )
