"""What a comparison is held against: a bound on the ratio of two contenders, or on their difference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.pairs import Rounds

__all__ = ["Bound", "Later", "verdicts"]

WHAT = {"cpu_us": "CPU per call", "calls_per_s": "calls/s", "p50_ms": "p50"}


@dataclass(frozen=True, slots=True)
class Bound:
    """The one's figure to the other's is at most so many times, or at least. Without a limit the ratio is told alone."""

    one: str
    other: str
    limit: float | None = None
    at_least: bool = False
    key: str = "cpu_us"

    def line(self, measured: Rounds) -> str:
        ratio = measured.ratio(self.one, self.other, self.key)
        told = f"{self.one} / {self.other}, {WHAT[self.key]}: {ratio}"
        if self.limit is None:
            return told
        met = ratio.median >= self.limit if self.at_least else ratio.median <= self.limit
        return f"{told}  bound {'≥' if self.at_least else '≤'} {self.limit:g}: {'met' if met else 'NOT met'}"


@dataclass(frozen=True, slots=True)
class Later:
    """The one's median answer comes at most so many milliseconds after the other's."""

    one: str
    other: str
    most_ms: float

    def line(self, measured: Rounds) -> str:
        later = measured.difference(self.one, self.other, "p50_ms")
        met = "met" if later.median <= self.most_ms else "NOT met"
        told = f"{later.median:+.3f} ms ({min(later.rounds):+.3f} to {max(later.rounds):+.3f})"
        return f"{self.one} less {self.other}, p50: {told}  bound ≤ {self.most_ms:g} ms: {met}"


def verdicts(bounds: Iterable[Bound | Later], measured: Rounds) -> list[str]:
    """A line for each bound whose contenders were both measured."""
    return [each.line(measured) for each in bounds if {each.one, each.other} <= measured.results.keys()]
