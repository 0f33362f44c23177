"""k-means for backgrounds: few real rows that stand for many."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array

__all__ = ["kmeans", "places"]

MOST_STEPS = 100  # of Lloyd's algorithm; it has stood still long before
MOST_TEXTS = 32  # of one column that are told apart; what is rarer is one text

Matrix = NDArray[np.float64]


def places(arrays: Mapping[str, Array], weights: Matrix) -> Matrix:
    """Where each row lies: [N, D]. Numbers are standardised, so that no unit counts for more than another.

    A number that is missing (NaN) lies at the mean and has a column that says so. Two texts that differ are 1 apart, as in
    Huang's k-prototypes (1998).
    """
    columns: list[Matrix] = []
    for array in arrays.values():
        flat = array.reshape(len(array), -1)
        for column in flat.T:
            columns += _texts(column, weights) if array.dtype == np.object_ else _numbers(column, weights)
    return np.column_stack(columns) if columns else np.zeros((len(weights), 1))


def kmeans(points: Matrix, weights: Matrix, count: int, seed: int) -> tuple[NDArray[np.intp], Matrix]:
    """The rows that stand for at most `count` clusters, and the share of each: indices [C], in order, and weights [C].

    Lloyd's algorithm from a start by k-means++ (Arthur and Vassilvitskii 2007). A centre is a mean, which may be no possible
    row (half a delinquency, two purposes at once): the row of its cluster that is nearest to it stands for it.
    """
    draw = np.random.default_rng(seed)
    centres = _start(points, weights, count, draw)
    nearest = _nearest(points, centres)
    for _ in range(MOST_STEPS):
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, points * weights[:, None])
        shares = np.bincount(nearest, weights, len(centres))
        live = shares > 0  # a cluster that lost its last row keeps its place, and weighs nothing
        centres[live] = sums[live] / shares[live, None]
        before, nearest = nearest, _nearest(points, centres)
        if np.array_equal(before, nearest):
            break
    chosen, kept = [], []
    shares = np.bincount(nearest, weights, len(centres))
    for cluster in np.flatnonzero(shares > 0):
        members = np.flatnonzero((nearest == cluster) & (weights > 0))
        distances = np.square(points[members] - centres[cluster]).sum(axis=1)
        chosen.append(members[np.argmin(distances)])
        kept.append(shares[cluster])
    order = np.argsort(chosen)
    return np.array(chosen, np.intp)[order], np.array(kept)[order] / np.sum(kept)


def _start(points: Matrix, weights: Matrix, count: int, draw: np.random.Generator) -> Matrix:
    """k-means++: each next centre is a row, the likelier the further it lies from those that there are."""
    chosen = [int(draw.choice(len(points), p=weights))]
    distances = np.square(points - points[chosen[0]]).sum(axis=1)
    while len(chosen) < count:
        chances = distances * weights
        total = chances.sum()
        if total <= 0:  # as many centres as there are different rows
            break
        chosen.append(int(draw.choice(len(points), p=chances / total)))
        distances = np.minimum(distances, np.square(points - points[chosen[-1]]).sum(axis=1))
    return points[chosen].copy()


def _nearest(points: Matrix, centres: Matrix) -> NDArray[np.intp]:
    scores = points @ centres.T
    scores *= -2
    scores += np.square(centres).sum(axis=1)
    nearest: NDArray[np.intp] = scores.argmin(axis=1)
    return nearest


def _numbers(column: Array, weights: Matrix) -> list[Matrix]:
    values = column.astype(np.float64)
    missing = np.isnan(values)
    if missing.all():
        return []
    finite = np.isfinite(values)
    largest = float(np.abs(values[finite]).max(initial=0))
    values = values / (largest or 1.0)  # the square of 1e300 would be infinite
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    beyond = (high - low) or 1.0
    values = np.clip(values, low - beyond, high + beyond)  # an infinity lies beyond the furthest number
    there = weights * ~missing
    total = there.sum()
    if total <= 0:
        return []
    values = np.where(missing, 0, values)
    mean = (there * values).sum() / total
    spread = np.sqrt((there * np.square(values - mean)).sum() / total)
    columns = [np.where(missing, 0, (values - mean) / spread)] if spread > 0 else []
    return [*columns, missing.astype(np.float64)] if missing.any() else columns


def _texts(column: Array, weights: Matrix) -> list[Matrix]:
    found, position = np.unique(column.astype(object), return_inverse=True)
    if len(found) == 1:
        return []
    shares = np.bincount(position, weights, len(found))
    told_apart = np.argsort(-shares, kind="stable")[:MOST_TEXTS]
    columns = [(position == each) * np.sqrt(0.5) for each in told_apart]
    if len(found) > MOST_TEXTS:
        columns.append(~np.isin(position, told_apart) * np.sqrt(0.5))
    return columns
