"""Exact Shapley values: every coalition, one matrix product."""

from __future__ import annotations

import numpy as np

from services.explainer.coalitions import all_subsets, shapley_weights
from services.explainer.estimate import Estimate, Floats
from services.explainer.threads import Threads
from services.explainer.value import Value

__all__ = ["exact"]

GROUP_VALUES = 2**20  # values that are held at a time, in elements: 8 MiB


async def exact(value: Value, base: Floats, predictions: Floats, players: int, threads: Threads) -> Estimate:
    """The attributions of all rows from all 2^players coalitions; their sum is the prediction less the base value.

    Values are taken relative to the base value, which no attribution depends on: it would only cost digits.
    """
    masks, weights = all_subsets(players), shapley_weights(players)
    rows, columns = predictions.shape
    attributions = np.empty((rows, players, columns))
    each = max(1, GROUP_VALUES // (len(masks) * max(columns, 1)))

    def attribute(group: range, inner: Floats) -> None:
        values = np.zeros((len(group), len(masks), columns))
        values[:, 1:-1] = inner - base
        values[:, -1] = predictions[group.start : group.stop] - base
        attributions[group.start : group.stop] = np.matmul(
            weights, values
        )  # row by row: no row depends on its neighbours

    for start in range(0, rows, each):
        group = range(start, min(start + each, rows))
        inner = await value.of(masks[1:-1], group)
        await threads.run(inner.size, attribute, group, inner)
    return Estimate(attributions, np.zeros_like(attributions), len(masks), converged=True)
