"""Which of a row are the highest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_nan", "highest"]

SORTED = 64  # columns up to which sorting them all costs less than looking for the k-th first


def first_nan(doubles: NDArray[np.float64]) -> int | None:
    """The first row that has a NaN."""
    bad = np.isnan(doubles)
    if not bad.any():
        return None
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))


def highest(doubles: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """(N, k): the columns of the k highest of each row, highest first, of equals the first column first; no NaN."""
    if k >= doubles.shape[1] or doubles.shape[1] <= SORTED or not len(doubles):
        return np.argsort(-doubles, axis=1, kind="stable")[:, :k]
    # `argpartition` takes any of the equals at the edge: what is above the k-th value is in, and of its equals the first ones.
    edge = -np.partition(-doubles, k - 1, axis=1)[:, k - 1 : k]
    above, equal = doubles > edge, doubles == edge
    left = k - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= left))
    columns = np.nonzero(chosen)[1].reshape(len(doubles), k)
    order = np.argsort(-np.take_along_axis(doubles, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)
