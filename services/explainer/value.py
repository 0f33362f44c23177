"""The value function: what the model says on average when only some features are known."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np

from services.explainer.ask import Ask
from services.explainer.base_values import BaseValues
from services.explainer.coalitions import Masks
from services.explainer.estimate import Floats
from services.explainer.link import Link, linked
from services.explainer.masked_rows import Distinct, Index, MaskedRows
from services.explainer.threads import Threads
from services.explainer.together import together

__all__ = ["Value"]

BLOCK_ROWS = (
    2**17
)  # composite rows that are made distinct together: some ms in a thread, which may hold the interpreter
BLOCK_ANSWERS = 2**23  # and answers, in elements: 64 MiB
BLOCKS = 2  # one is put together while the other is asked about
PROBES = 4  # background rows that are asked about although their mean is known


class Value:
    """v(S) = link(Σ_b weight_b · f(the row with S known, the other features from background row b)).

    This is the interventional value function (Lundberg and Lee, "A unified approach to interpreting model predictions", 2017;
    Janzing et al., "Feature relevance quantification in explainable AI: a causal problem", 2020). Sums over the background go
    row by row in one order, so that values do not depend on how the asking was cut into messages.
    """

    def __init__(self, rows: MaskedRows, weights: Floats, ask: Ask, threads: Threads) -> None:
        self.rows = rows
        self._weights = weights
        self._ask = ask
        self._threads = threads
        self._blocks = asyncio.Semaphore(BLOCKS)
        self._background: Floats | None = None  # what the model answered to it, all columns
        self.link: Link = "identity"  # may be set when the ends are known

    @property
    def weights(self) -> Floats:
        """Of the background rows."""
        return self._weights

    async def ends(self, known: BaseValues, digest: bytes, newest: str = "") -> tuple[Floats, Floats]:
        """The mean over the background [columns] and the answers to the rows [rows, columns], without link, all columns of them.

        They are asked for first, together: the version is pinned, and a model that can't be explained is found out at little
        cost. A mean that is `known`, of the version asked for or else of the `newest`, is not asked for again.
        """
        ask, backgrounds = self._ask, self.rows.backgrounds
        own = np.arange(backgrounds, backgrounds + self.rows.rows)
        probes = np.unique(np.linspace(0, backgrounds - 1, min(PROBES, backgrounds)).astype(np.intp))
        model, output = ask.model, ask.output.name
        found = known.find((model, ask.version or newest, output, digest))
        if found is not None:
            answers = await self._plain(np.concatenate([probes, own]))
            now = known.find((model, ask.version, output, digest))  # of the version that answered
            if now is not None and now.holds(answers[: len(probes)]):
                return now.mean, answers[len(probes) :]
            background, answers = await self._plain(np.arange(backgrounds)), answers[len(probes) :]
        else:
            answers = await self._plain(np.concatenate([np.arange(backgrounds), own]))
            background, answers = answers[:backgrounds], answers[backgrounds:]
        mean = self._mean(background, np.arange(backgrounds))
        known.keep((model, ask.version, output, digest), mean, background[probes])
        self._background = background
        return mean, answers

    async def of(self, masks: Masks, rows: range) -> Floats:
        """v of each coalition for each of the rows, [rows, coalitions, columns]. Coalitions that are alike are asked once."""
        columns = self._ask.width if self._ask.columns is None else len(self._ask.columns)
        values = np.empty((len(rows), len(masks), columns))

        async def fill(some_rows: range, some_masks: slice) -> None:
            async with self._blocks:
                values[some_rows.start - rows.start : some_rows.stop - rows.start, some_masks] = await self._block(
                    masks[some_masks], some_rows
                )

        await together(fill(*block) for block in self._cut(rows, len(masks), columns, self.rows.backgrounds))
        return values

    async def apart(self, masks: Masks, backgrounds: Index, rows: range) -> Floats:
        """What the model answers for each of the rows, [rows, masks, columns], where each mask goes with the one background row
        beside it: no mean is taken, and no link."""
        columns = self._ask.width if self._ask.columns is None else len(self._ask.columns)
        values = np.empty((len(rows), len(masks), columns))

        async def fill(some_rows: range, some: slice) -> None:
            async with self._blocks:
                size = len(some_rows) * (some.stop - some.start)
                distinct: Distinct = await self._threads.run(
                    8 * size, self.rows.distinct_apart, masks[some], backgrounds[some], some_rows
                )
                answers = await self._answers(distinct, masks[some])
                into = values[some_rows.start - rows.start : some_rows.stop - rows.start, some]
                await self._threads.run(size * columns, np.take, answers, distinct.place, 0, into, "clip")

        await together(fill(*block) for block in self._cut(rows, len(masks), columns, 1))
        return values

    async def background(self) -> Floats:
        """What the model answers to the background rows, [backgrounds, columns]."""
        if self._background is None:
            return await self._plain(np.arange(self.rows.backgrounds))
        return self._background if self._ask.columns is None else self._background[:, self._ask.columns]

    def cost(self, coalitions: int) -> int:
        """Composite rows that so many coalitions of all rows make."""
        return self.rows.rows * coalitions * self.rows.backgrounds

    def _cut(self, rows: range, coalitions: int, columns: int, backgrounds: int) -> Iterator[tuple[range, slice]]:
        block = max(BLOCK_ROWS, self._ask.max_rows)  # else no ModelInfer would be as large as it may be
        most = max(1, min(block, BLOCK_ANSWERS // max(columns, 1)) // backgrounds)
        masks_each = min(most, max(coalitions, 1))
        rows_each = max(1, most // masks_each)
        for row in range(rows.start, rows.stop, rows_each):
            for mask in range(0, coalitions, masks_each):
                yield range(row, min(row + rows_each, rows.stop)), slice(mask, min(mask + masks_each, coalitions))

    async def _block(self, masks: Masks, rows: range) -> Floats:
        size = len(rows) * len(masks) * self.rows.backgrounds
        distinct: Distinct = await self._threads.run(8 * size, self.rows.distinct, masks, rows)
        answers = await self._answers(distinct, masks)
        return await self._threads.run(size * answers.shape[1], self._linked, answers, distinct.place)

    async def _answers(self, distinct: Distinct, masks: Masks) -> Floats:
        def contents(chunk: slice) -> list[bytes]:
            return self.rows.masked(distinct.row[chunk], masks[distinct.coalition[chunk]], distinct.background[chunk])

        return await self._ask(self.rows, len(distinct.row), contents)

    async def _plain(self, rows: Index) -> Floats:
        return await self._ask(self.rows, len(rows), lambda chunk: self.rows.plain(rows[chunk]))

    def _linked(self, answers: Floats, place: Index) -> Floats:
        return linked(self._mean(answers, place), self.link, self._ask.model, self._ask.output.name)

    def _mean(self, answers: Floats, place: Index) -> Floats:
        total = np.zeros((*place.shape[:-1], answers.shape[1]))
        for background, weight in enumerate(self._weights):
            total += weight * answers[place[..., background]]
        return total
