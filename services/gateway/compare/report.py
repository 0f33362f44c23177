"""What a comparison says: plain values, to be shown or sent. Text is meant to be read; what a program needs is a field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.gateway.compare.proportion import Proportion
from services.gateway.compare.worst import Disagreement

__all__ = [
    "EventReport",
    "Finding",
    "LatencyReport",
    "OutputReport",
    "Quantiles",
    "Report",
    "ShiftReport",
    "State",
    "Verdict",
]

State = Literal["not enough", "differs", "within noise", "nothing seen"]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of calls; NaN without any. Within 1 % of a value of that rank; the largest is exact."""

    count: int
    p50: float
    p99: float
    largest: float


@dataclass(frozen=True, slots=True)
class EventReport:
    """In how many calls something happened between primary and shadow, and between the primary and itself."""

    what: str
    output: str
    detail: str
    shadow: Proportion
    repeat: Proportion
    p: float | None  # None: not tested
    p_adjusted: float | None  # by Holm, over all tests of the report


@dataclass(frozen=True, slots=True)
class ShiftReport:
    """How one column's, or label's, distribution moved. The last two bins are open above and for NaN."""

    output: str
    column: str
    pairs: int
    psi: float | None  # None: not enough pairs to make bins
    p: float | None
    p_adjusted: float | None
    mean: float | None  # of shadow − primary; None for labels
    mean_low: float | None
    mean_high: float | None
    bins: tuple[str, ...]
    primary: tuple[int, ...]
    shadow: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OutputReport:
    """One output over all calls. Differences are the largest of each call; `differing` counts elements."""

    name: str
    datatype: str
    elements: int
    differing: int
    max_abs: Quantiles
    max_abs_repeat: Quantiles
    max_abs_p: float | None
    max_abs_p_adjusted: float | None
    max_rel: Quantiles
    max_rel_repeat: Quantiles
    overlap: float | None  # of the top_k largest columns, mean over calls
    overlap_repeat: float | None


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Seconds. The two run under different load, so nothing is judged."""

    primary: Quantiles
    shadow: Quantiles
    median_difference: float  # of shadow − primary, pair by pair


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference that is more than noise, or without a noise floor one that was seen at all."""

    what: str
    output: str
    detail: str
    text: str
    p_adjusted: float | None  # None: not held against noise


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to make of it. Without a finding it is never "equal": the intervals say what may still be there."""

    state: State
    text: str
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All of a comparison. `codes` counts how the two calls of a pair ended: primary's code, and shadow's; or the repeat's."""

    model: str
    shadow: str
    pairs: int
    repeats: int
    first_s: float | None  # wall clock, seconds since 1970
    last_s: float | None
    codes: tuple[tuple[str, str, int], ...]
    repeat_codes: tuple[tuple[str, str, int], ...]
    structure: tuple[tuple[str, int], ...]
    events: tuple[EventReport, ...]
    outputs: tuple[OutputReport, ...]
    shifts: tuple[ShiftReport, ...]
    latency: LatencyReport
    worst: tuple[Disagreement, ...]
    verdict: Verdict
