"""Histograms of a report on the axes of plots: fine buckets put together, and bins with names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from infermesh.cli.shadow_words import value
from infermesh.protocol import shadow_reports_pb2 as pb

__all__ = ["Binned", "bin_edges", "bin_names", "log_bins"]

MAX_BINS = 60
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Binned:
    """Histograms on one logarithmic axis. Bin i holds values from 10^(i/per_decade) to 10^((i+1)/per_decade).

    Zero has no place on such an axis: it is the bin `zero`, a gap to the left of all others. `places` rise; `shares` are percent.
    """

    places: list[int]
    shares: list[list[float]]
    per_decade: int
    zero: int

    def name(self, place: int) -> str:
        """The values of a bin in words."""
        if place == self.zero:
            return "0 (equal)"
        return f"{value(10 ** (place / self.per_decade))} to {value(10 ** ((place + 1) / self.per_decade))}"

    def ticks(self) -> tuple[list[float], list[str]]:
        """Where the axis is labelled, and with what: powers of ten, or 1, 2 and 5 where there is less than a decade or two."""
        inside = [place for place in self.places if place != self.zero]
        ticks, texts = ([float(self.zero)], ["0"]) if self.zero in self.places else ([], [])
        if not inside:
            return ticks, texts
        low, high = inside[0] / self.per_decade, (inside[-1] + 1) / self.per_decade
        decades = range(math.floor(low), math.ceil(high) + 1)
        steps = (1, 2, 5) if high - low <= 2.5 else (1,)
        every = max(1, round((high - low) / 8))
        for decade in decades:
            for step in steps:
                at = decade + math.log10(step)
                if low - 1e-9 <= at <= high + 1e-9 and decade % every == 0:
                    ticks.append(
                        at * self.per_decade - 0.5
                    )  # bars are centred on their places, edges half a place away
                    texts.append(_power(decade, step))
        return ticks, texts


def log_bins(histograms: Sequence[pb.Histogram], *, scale: float = 1.0, per_decade: int = 6) -> Binned | None:
    """The histograms as percent of each one's own counts; None when all are empty.

    Over many decades there are fewer bins in each of them, so that they stay at most `MAX_BINS`.
    """
    given = [
        [(number * scale, count) for number, count in zip(each.values, each.counts, strict=False) if count]
        for each in histograms
    ]
    positive = [number for each in given for number, _ in each if 0 < number < math.inf]
    if not any(given):
        return None
    if positive:
        decades = max(1.0, math.log10(max(positive) / min(positive)))
        per_decade = max(1, min(per_decade, int(MAX_BINS / decades)))
    placed: list[Counter[int | None]] = []
    for each in given:
        counts: Counter[int | None] = Counter()
        for number, count in each:
            if 0 <= number < math.inf:
                counts[math.floor(math.log10(number) * per_decade) if number else None] += count
        placed.append(counts)
    taken = sorted({place for counts in placed for place in counts if place is not None})
    zero = (taken[0] if taken else 0) - 3
    has_zero = any(None in counts for counts in placed)
    places = [*([zero] if has_zero else []), *(range(taken[0], taken[-1] + 1) if taken else [])]
    shares = []
    for counts in placed:
        total = counts.total()
        found = [counts[None if place == zero else place] for place in places]
        shares.append([count / total * 100 if total else 0.0 for count in found])
    return Binned(places, shares, per_decade, zero)


def bin_names(shift: pb.Shift) -> list[str]:
    """The bins of a column as ranges, which the report names by their upper ends alone; labels are names already."""
    if not shift.HasField("mean"):
        return list(shift.bins)
    names, below = [], ""
    for each in shift.bins:
        edge = each.removeprefix("< ")
        if edge == each:
            names.append(f"≥ {below}" if each == "above" and below else each)
            continue
        try:
            edge = f"{float(edge):.4g}"
        except ValueError:
            return list(shift.bins)
        names.append(f"{below} – {edge}" if below else f"< {edge}")
        below = edge
    return names


def bin_edges(shift: pb.Shift, shown: Sequence[int]) -> list[str]:
    """Of the bins of a column that are shown, each one's upper end; empty where it has none."""
    edges = []
    for at in shown:
        _, less, edge = shift.bins[at].partition("< ")
        try:
            edges.append(f"{float(edge):.3g}" if less else "")
        except ValueError:
            edges.append("")
    return edges


def _power(decade: int, step: int) -> str:
    number = step * 10.0**decade
    if 1e-3 <= number < 1e5:
        return f"{number:,.10g}"
    return (
        f"10{str(decade).translate(_SUPERSCRIPT)}" if step == 1 else f"{step}·10{str(decade).translate(_SUPERSCRIPT)}"
    )
