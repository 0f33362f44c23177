"""Exact Shapley values: every coalition, one matrix product."""

from __future__ import annotations

import numpy as np

from services.explainer.coalitions import all_subsets, shapley_weights
from services.explainer.estimate import Estimate, Floats
from services.explainer.threads import Threads
from services.explainer.value import Value

__all__ = ["exact"]

GROUP_VALUES = 2**20  # values that are held at a time, in elements: 8 MiB
PART_VALUES = 2**20  # and of one row: of a wider output the coalitions are worked off in parts


async def exact(value: Value, base: Floats, predictions: Floats, players: int, threads: Threads) -> Estimate:
    """The attributions of all rows from all 2^players coalitions; their sum is the prediction less the base value.

    Values are taken relative to the base value, which no attribution depends on: it would only cost digits. The parts that
    coalitions are cut into depend on nothing but how many there are and how wide their values: sums of other parts may differ
    in their last digits, and a row is to get the same whichever rows are beside it.
    """
    masks, weights = all_subsets(players), shapley_weights(players)
    rows, columns = predictions.shape
    last = len(masks) - 1
    attributions = np.zeros((rows, players, columns))
    part = min(len(masks), max(1, PART_VALUES // max(columns, 1)))
    each = max(1, GROUP_VALUES // (part * max(columns, 1)))

    def attribute(group: range, start: int, first: int, inner: Floats) -> None:
        """Add what coalitions `start` … contribute; the inner ones of them begin with number `first`."""
        values = np.zeros((len(group), min(part, len(masks) - start), columns))
        np.subtract(inner, base, out=values[:, first - start : first - start + inner.shape[1]])
        if start + part > last:
            values[:, -1] = predictions[group.start : group.stop] - base
        weighed = np.matmul(weights[:, start : start + part], values)  # row by row: no row depends on its neighbours
        attributions[group.start : group.stop] += weighed

    for at in range(0, rows, each):
        group = range(at, min(at + each, rows))
        for start in range(0, len(masks), part):
            first = max(start, 1)  # the values of none and of all are known
            inner = await value.of(masks[first : max(first, min(start + part, last))], group)
            await threads.run(inner.size, attribute, group, start, first, inner)
    return Estimate(attributions, np.zeros_like(attributions), len(masks), converged=True)
