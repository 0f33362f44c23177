"""Decisions, as they are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

__all__ = ["Decisions"]

Count = Callable[[Sequence[str], NDArray[np.intp]], None]


class Decisions(Collector):
    """`infermesh_transformer_decisions_total`: rows by model and decision. Labels come from the feature file alone, and all
    are there from the start. Counted on the event loop, read in the thread of whoever scrapes."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._counts: dict[str, dict[str, int]] = {}

    def of(self, model: str, decisions: Iterable[str]) -> Count:
        """What counts the decisions of one model: words, and the index of one for each row."""
        counts = self._counts.setdefault(model, {})
        counts |= {word: 0 for word in decisions if word not in counts}

        def count(words: Sequence[str], codes: NDArray[np.intp]) -> None:
            for word, rows in zip(words, np.bincount(codes, minlength=len(words)).tolist(), strict=True):
                counts[word] += rows

        return count

    def collect(self) -> Iterator[Metric]:
        labels = ("service", "model", "decision")
        family = CounterMetricFamily("infermesh_transformer_decisions", "Rows by decision.", labels=labels)
        for model, counts in self._counts.items():
            for decision, rows in counts.items():
                family.add_metric((self._service, model, decision), rows)
        yield family
