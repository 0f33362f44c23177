"""Which differences are more than noise, in sentences with numbers.

All tests of a report are one family: Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal
of Statistics 6, keeps the chance of any false finding in it at `alpha`, whatever depends on what. A report that is read again and
again is as many chances; that is not corrected for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from services.gateway.compare.proportion import percent
from services.gateway.compare.report import EventReport, Finding, OutputReport, ShiftReport, State, Verdict
from services.gateway.compare_config import CompareConfig

__all__ = ["described", "findings", "holm", "verdict"]

Key = TypeVar("Key")

_EVENTS = {
    "failed": "the shadow fails where the primary answers,",
    "structure": "the answer has another structure",
    "nonfinite": "{output}: NaN or infinite in one answer alone",
    "outside": "{output}: outside tolerance",
    "label": "{output}: label differs",
    "largest_column": "{output}: another column is the largest",
    "rises": "{output}: {detail} is reached by the shadow alone",
    "falls": "{output}: {detail} is reached by the primary alone",
}
_ALONE = (
    "failed",
    "structure",
    "nonfinite",
    "label",
    "largest_column",
    "rises",
    "falls",
)  # say something without a noise floor


def holm(chances: Mapping[Key, float]) -> dict[Key, float]:
    """Adjusted p-values: one at or under alpha is a finding when all of them together may err with that chance."""
    adjusted: dict[Key, float] = {}
    least = 0.0
    for at, (key, p) in enumerate(sorted(chances.items(), key=lambda each: each[1])):
        least = adjusted[key] = max(least, min(1.0, p * (len(chances) - at)))
    return adjusted


def described(what: str, output: str, detail: str) -> str:
    """An event in words."""
    return _EVENTS[what].format(output=output, detail=detail)


def findings(
    config: CompareConfig,
    events: Sequence[EventReport],
    outputs: Sequence[OutputReport],
    shifts: Sequence[ShiftReport],
) -> list[Finding]:
    """Everything whose adjusted p-value is at most alpha; without a noise floor, also what happened at all and should not."""
    found = []
    for event in events:
        what = described(event.what, event.output, event.detail)
        if config.repeat == 0 and event.what in _ALONE and event.shadow.low > 0:
            text = f"{what} in {event.shadow} of the calls; how often the primary differs from itself is not known"
            found.append(Finding(event.what, event.output, event.detail, text, None))
        elif _is_found(event.p_adjusted, config):
            text = f"{what} in {event.shadow} of the calls; between the primary and itself in {event.repeat}"
            found.append(Finding(event.what, event.output, event.detail, text, event.p_adjusted))
    for output in outputs:
        if _is_found(output.max_abs_p_adjusted, config):
            mine, itself = output.max_abs, output.max_abs_repeat
            text = (
                f"{output.name}: the largest difference of a call is {mine.p50:.3g} in the median (p99 {mine.p99:.3g}); between "
                f"the primary and itself {itself.p50:.3g} (p99 {itself.p99:.3g}); {_chance(output.max_abs_p_adjusted)}"
            )
            found.append(Finding("magnitude", output.name, "", text, output.max_abs_p_adjusted))
    for shift in shifts:
        if _is_found(shift.p_adjusted, config):
            name = f"{shift.output} {shift.column}".strip()
            text = f"{name}: distributed otherwise, PSI {shift.psi:.3g} ({_chance(shift.p_adjusted)})"
            if shift.mean is not None:
                text += f"; mean difference {shift.mean:+.3g} (95 % {shift.mean_low:+.3g} to {shift.mean_high:+.3g})"
            found.append(Finding("shift", shift.output, shift.column, text, shift.p_adjusted))
    return found


def verdict(
    config: CompareConfig,
    answered: int,
    pairs: int,
    repeats: int,
    found: Sequence[Finding],
    notes: Sequence[str],
    *,
    tests: int,
    compared: bool = True,
) -> Verdict:
    """The verdict over the findings of so many tests; while pairs or repeats are missing it says so, and nothing else.

    The primary `answered` so many mirrored calls, `pairs` of them the shadow too; without `compared` no two answers had an output
    in common.
    """
    missing = [f"not enough pairs yet: {pairs:,} of {config.min_pairs:,}"] if answered < config.min_pairs else []
    if config.repeat and repeats < config.min_repeats:
        missing.append(f"not enough repeats yet: {repeats:,} of {config.min_repeats:,}")
    if missing:
        return Verdict("not enough", "; ".join(missing), (), tuple(notes))
    if not found and not compared:
        return Verdict("not enough", f"nothing could be compared in {pairs:,} pairs", (), tuple(notes))
    floor = f"{repeats:,} repeats" if config.repeat else "no repeats: the noise floor is not known"
    state: State
    if found:
        count = f"{len(found)} difference{'s' if len(found) > 1 else ''}"
        told = [each for each in found if each.p_adjusted is not None]
        state = "differs"
        text = (
            f"{count} beyond noise"
            if len(told) == len(found)
            else f"{count}, {len(found) - len(told)} not held against noise"
        )
        text += f", in {pairs:,} pairs ({floor})"
    elif config.repeat:
        state = "within noise"
        # Where the primary never differs from itself in r repeats, a share s of many calls has p ≈ (1 − s)^r.
        least = 1 - (config.alpha / max(1, tests)) ** (1 / repeats)
        text = (
            f"nothing above the noise floor in {pairs:,} pairs ({floor}); what happens in less than {percent(least)} % of the "
            f"calls can't be told from noise yet"
        )
    else:
        state = "nothing seen"
        text = f"no difference in kind seen in {pairs:,} pairs ({floor}); sizes of differences are not judged"
    return Verdict(state, text, tuple(found), tuple(notes))


def _is_found(p: float | None, config: CompareConfig) -> bool:
    return p is not None and p <= config.alpha


def _chance(p: float | None) -> str:
    assert p is not None
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
