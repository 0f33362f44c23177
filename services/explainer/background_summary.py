"""Fewer rows for many: evenly, by k-means, or by strata; the same seed gives the same rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.explainer.background import Background
from services.explainer.background_kmeans import kmeans, places
from services.explainer.background_material import Material

__all__ = ["Summary", "summarised"]

Summary = Literal["none", "kmeans", "stratified"]


def summarised(material: Material, summary: Summary, rows: int, *, by: str = "", seed: int = 0) -> Background:
    """At most that many rows of it. Raises BackgroundError where `by` names no column of the source.

    `none`: evenly through the set, as far as it has more. `kmeans`: rows in the middle of clusters, each with its cluster's
    weight. `stratified`: one row out of each of as many quantiles of the column `by`, each with the same weight.
    """
    background = material.background
    if summary == "none":
        return background.thinned(rows)
    if summary == "kmeans":
        points = places(background.arrays, background.weights)
        background = background.taken(*kmeans(points, background.weights, rows, seed))
    else:
        column = material.column(by)
        if len(background) > rows:
            background = background.taken(*_strata(column, background.weights, rows, seed))
    return replace(background, summary=summary if summary == "kmeans" else f"stratified by {by}")


def _strata(
    column: NDArray[np.generic], weights: NDArray[np.float64], rows: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """One row at random of each stratum: a quantile of the values, or as many as a text has a share in."""
    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(len(column))  # so that equal values lie in no order
    _, ranks = np.unique(column[shuffled], return_inverse=True)
    order = shuffled[np.argsort(ranks, kind="stable")]
    ends = np.cumsum(weights[order])
    marks = (np.arange(rows) + draw.random(rows)) / rows * ends[-1]
    index, count = np.unique(
        order[np.minimum(np.searchsorted(ends, marks, "right"), len(order) - 1)], return_counts=True
    )
    return index, count / rows
