"""What the numbers of a shadow's report are called, and how they are written: the same in a terminal and on a page."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import NamedTuple

from infermesh.protocol import shadow_reports_pb2 as pb

__all__ = [
    "ITSELF",
    "State",
    "briefly",
    "chance",
    "event_words",
    "heading",
    "milliseconds",
    "moment",
    "percent",
    "period",
    "plain",
    "short",
    "signed",
    "state_of",
    "value",
]

ITSELF = "primary itself"  # the primary beside its own second answer

_EVENTS = {
    "failed": "the shadow fails, the primary answers",
    "structure": "the answer has another structure",
    "nonfinite": "NaN or infinite in one answer alone",
    "outside": "outside tolerance",
    "label": "label differs",
    "largest_column": "another column is the largest",
    "rises": "{detail}: reached by the shadow alone",
    "falls": "{detail}: reached by the primary alone",
}
_BRIEFLY = {
    "nonfinite": "NaN or infinite",
    "outside": "tolerance",
    "label": "label",
    "largest_column": "largest column",
    "rises": "{detail} ↑",
    "falls": "{detail} ↓",
}


class State(NamedTuple):
    """A verdict in words."""

    word: str
    style: str  # in a terminal
    kind: str  # on a page


_STATES = {
    pb.Verdict.NOT_ENOUGH: State("NOT ENOUGH", "yellow", "waiting"),
    pb.Verdict.DIFFERS: State("DIFFERS", "bold red", "differs"),
    pb.Verdict.WITHIN_NOISE: State("WITHIN NOISE", "bold green", "same"),
    pb.Verdict.NOTHING_SEEN: State("NOTHING SEEN", "bold cyan", "unheld"),
}
_UNKNOWN = State("NO VERDICT", "yellow", "waiting")  # of a gateway that is newer than this program


def state_of(report: pb.Report) -> State:
    """The verdict's state."""
    return _STATES.get(report.verdict.state, _UNKNOWN)


def heading(report: pb.Report) -> str:
    """Which comparison it is."""
    beside = f"variant {plain(report.variant)}" if report.variant else "the primary"
    return f"{plain(report.model)}: shadow {plain(report.shadow)} beside {beside}"


def event_words(what: str, detail: str) -> str:
    """An event without its output; one that this program does not know keeps its name."""
    said = _EVENTS.get(what)
    return said.format(detail=plain(detail)) if said else plain(f"{what} {detail}".strip())


def briefly(happened: str) -> str:
    """A difference of one call, such as `rises probabilities fraud at 0.5`, in few words and without its output."""
    what, _, about = happened.partition(" ")
    said = _BRIEFLY.get(what)
    return said.format(detail=plain(about.partition(" ")[2])) if said else plain(happened)


def plain(text: str) -> str:
    """Text from outside with nothing in it that moves a cursor, colours a terminal or turns the reading direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def short(text: str, limit: int) -> str:
    """The same, cut in its middle: of long names the ends tell more."""
    text = plain(text)
    if len(text) <= limit:
        return text
    head = (limit - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def percent(share: float) -> str:
    """A share: two significant digits below 10 %, one decimal above; "–" for none."""
    if math.isnan(share):
        return "–"
    hundred = share * 100
    return f"{hundred:.1f} %" if hundred == 0 or hundred >= 1 else f"{hundred:.2g} %"


def value(number: float) -> str:
    """A number in three significant digits; "–" for none."""
    return "–" if math.isnan(number) else f"{number:.3g}"


def signed(number: float) -> str:
    """The same with its sign."""
    return "–" if math.isnan(number) else f"{number:+.3g}"


def milliseconds(seconds: float, *, sign: bool = False) -> str:
    """A duration with its unit."""
    if math.isnan(seconds):
        return "–"
    return (
        f"{seconds * 1e3:{'+' if sign else ''}.3g} ms" if abs(seconds) < 10 else f"{seconds:{'+' if sign else ''}.4g} s"
    )


def chance(p: float | None) -> str:
    """A p-value; "–" where nothing was tested."""
    if p is None:
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def moment(at_s: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time of day with its date, in UTC."""
    try:
        return datetime.fromtimestamp(at_s, UTC).strftime(form)
    except (OverflowError, OSError, ValueError):
        return "–"


def period(report: pb.Report) -> str:
    """What was counted, and when."""
    counted = f"{report.pairs:,} pairs, {report.repeats:,} repeats"
    if not (report.HasField("first_s") and report.HasField("last_s")):
        return counted
    return f"{counted}; from {moment(report.first_s)} to {moment(report.last_s)} UTC"
