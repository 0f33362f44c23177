"""The value function: what the model says on average when only some features are known."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np

from services.explainer.ask import Ask
from services.explainer.coalitions import Masks
from services.explainer.estimate import Floats
from services.explainer.masked_rows import Distinct, MaskedRows
from services.explainer.threads import Threads
from services.explainer.together import together

__all__ = ["Value"]

BLOCK_ROWS = (
    2**16
)  # composite rows that are made distinct together: some ms in a thread, which may hold the interpreter
BLOCK_ANSWERS = 2**23  # and answers, in elements: 64 MiB
BLOCKS = 2  # one is put together while the other is asked about


class Value:
    """v(S) = Σ_b weight_b · f(the row with S known, the other features from background row b).

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

    async def ends(self) -> tuple[Floats, Floats]:
        """v of nothing known [columns] and of everything known [rows, columns]: the base value and the predictions.

        They are asked for first, together, all columns of them: the version is pinned, and a model that can't be explained is
        found out at little cost.
        """
        backgrounds = self.rows.backgrounds
        answers = await self._ask(self.rows, backgrounds + self.rows.rows, self.rows.plain)
        return self._mean(answers[:backgrounds], np.arange(backgrounds)), answers[backgrounds:]

    async def of(self, masks: Masks, rows: range) -> Floats:
        """v of each coalition for each of the rows, [rows, coalitions, columns]. Coalitions that are alike are asked once."""
        columns = self._ask.width if self._ask.columns is None else len(self._ask.columns)
        values = np.empty((len(rows), len(masks), columns))

        async def fill(some_rows: range, some_masks: slice) -> None:
            async with self._blocks:
                values[some_rows.start - rows.start : some_rows.stop - rows.start, some_masks] = await self._block(
                    masks[some_masks], some_rows
                )

        await together(fill(*block) for block in self._cut(rows, len(masks), columns))
        return values

    def cost(self, coalitions: int) -> int:
        """Composite rows that so many coalitions of all rows make."""
        return self.rows.rows * coalitions * self.rows.backgrounds

    def _cut(self, rows: range, coalitions: int, columns: int) -> Iterator[tuple[range, slice]]:
        most = max(1, min(BLOCK_ROWS, BLOCK_ANSWERS // max(columns, 1)) // self.rows.backgrounds)
        masks_each = min(most, max(coalitions, 1))
        rows_each = max(1, most // masks_each)
        for row in range(rows.start, rows.stop, rows_each):
            for mask in range(0, coalitions, masks_each):
                yield range(row, min(row + rows_each, rows.stop)), slice(mask, min(mask + masks_each, coalitions))

    async def _block(self, masks: Masks, rows: range) -> Floats:
        size = len(rows) * len(masks) * self.rows.backgrounds
        distinct: Distinct = await self._threads.run(8 * size, self.rows.distinct, masks, rows)

        def contents(chunk: slice) -> list[bytes]:
            return self.rows.masked(distinct.row[chunk], masks[distinct.coalition[chunk]], distinct.background[chunk])

        answers = await self._ask(self.rows, len(distinct.row), contents)
        return await self._threads.run(size * answers.shape[1], self._mean, answers, distinct.place)

    def _mean(self, answers: Floats, place: np.ndarray[tuple[int, ...], np.dtype[np.integer]]) -> Floats:
        total = np.zeros((*place.shape[:-1], answers.shape[1]))
        for background, weight in enumerate(self._weights):
            total += weight * answers[place[..., background]]
        return total
