"""Counters whose series go with what is counted.

Routes, variants and shadows come and go with route tables. What counts for one of them holds its `Counts`, and a new table that
has it as well is given the same, so that a reload sets nothing back. When the last one who holds them is gone, the series are
told once more, with the last calls in them, and are no more: nobody has to say so, and a call that ends after its table was
replaced leaves nothing behind.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["Counts", "Series"]

MAX_GONE = 1000  # that wait to be told once more: somebody may never scrape

Labels = tuple[str, ...]


class Counts:
    """The counts of one thing, by the labels that tell its events apart. Added to on the event loop alone."""

    __slots__ = ("__weakref__", "values")

    def __init__(self, values: dict[Labels, int]) -> None:
        self.values = values

    def begin(self, *by: str) -> None:
        """Show the series from now on, at 0 if nothing was counted."""
        self.values.setdefault(by, 0)

    def add(self, *by: str) -> None:
        self.values[by] = self.values.get(by, 0) + 1


class Series(Collector):
    """One counter. `of` are the labels that say what is counted for, `by` those that tell its events apart."""

    def __init__(
        self, registry: CollectorRegistry, service: str, name: str, text: str, of: Labels, by: Labels = ()
    ) -> None:
        self._service = service
        self._name = name
        self._text = text
        self._labels = ("service", *of, *by)
        self._values: dict[Labels, dict[Labels, int]] = {}
        self._held: dict[Labels, weakref.ref[Counts]] = {}
        self._gone: dict[Labels, None] = {}  # oldest first
        self._lock = threading.RLock()  # a scrape runs in a thread of its own; no count of a call takes it
        registry.register(self)

    def counts(self, *of: str) -> Counts:
        """Those that somebody holds already, or new ones; whoever counts holds them."""
        with self._lock:
            held = self._held.get(of)
            counts = held() if held is not None else None
            if counts is None:
                self._gone.pop(of, None)
                counts = Counts(self._values.setdefault(of, {}))
                self._held[of] = weakref.ref(counts, lambda gone: self._let_go(of, gone))
            return counts

    def forget(self, *of: str) -> None:
        """Drop the series at once; what is still counted for it is told to nobody."""
        with self._lock:
            self._held.pop(of, None)
            self._gone.pop(of, None)
            self._values.pop(of, None)

    def describe(self) -> Iterator[Metric]:
        """The name, so that the registry refuses a second metric of it."""
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        """Runs in the thread of whoever scrapes."""
        with self._lock:  # each copied in one step: the event loop may be adding
            values = {of: counted.copy() for of, counted in self._values.items()}
            for of in self._gone:
                del self._values[of]
            self._gone.clear()
        family = self._family()
        for of, counted in values.items():
            for by, count in counted.items():
                family.add_metric((self._service, *of, *by), count)
        yield family

    def _let_go(self, of: Labels, gone: weakref.ref[Counts]) -> None:
        with self._lock:
            if self._held.get(of) is not gone:  # it was forgotten, or somebody counts for the same again
                return
            del self._held[of]
            self._gone[of] = None
            if len(self._gone) > MAX_GONE:
                oldest = next(iter(self._gone))
                del self._gone[oldest], self._values[oldest]

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(self._name, self._text, labels=self._labels)
