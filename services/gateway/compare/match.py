"""Two answers laid side by side, output by output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infermesh.errors import quoted
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from services.gateway.compare.answer import Output, Unreadable, read
from services.gateway.compare.floats import Distance, distance, largest_columns, overlap
from services.gateway.compare.plain import short
from services.gateway.compare_config import CompareConfig, ThresholdConfig

__all__ = ["MAX_OUTPUTS", "Event", "Match", "OutputMatch", "crossings", "match"]

MAX_OUTPUTS = 32  # of an answer; further ones are not compared
MAX_NAME = 256  # characters of an output's name: counts are kept by it


class Event(NamedTuple):
    """Something that happens in a call or does not: what, in which output, and where there are several, which."""

    what: str  # structure | nonfinite | outside | label | largest_column | rises | falls
    output: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class OutputMatch:
    """One output that both answers have in the same form. `events` says of each that could have happened whether it did."""

    name: str
    primary: Output
    other: Output
    events: dict[Event, bool]
    elements: int
    differing: int  # elements outside tolerance, or labels that are not the same
    distance: Distance | None  # None: not a floating output
    overlap: float | None  # of the largest columns; None where all are among them
    at: int  # flat index of the element to show, when something differs

    def shown(self) -> tuple[str, str, str]:
        """Where the answers differ, and what both say there, in a few words."""
        array = self.primary.array
        place = ",".join(str(int(each)) for each in np.unravel_index(self.at, array.shape)) if array.ndim else ""
        return f"{self.name}[{place}]", short(array.item(self.at)), short(self.other.array.item(self.at))


@dataclass(frozen=True, slots=True)
class Match:
    """What differs in structure, in sentences, and the outputs that could be compared."""

    structure: tuple[str, ...]
    outputs: tuple[OutputMatch, ...]
    past: int = 0  # outputs that were not looked at


def match(primary: ModelInferResponse | bytes, other: ModelInferResponse | bytes, config: CompareConfig) -> Match:
    """Compare two answers to one request. Never raises for what an answer holds."""
    read_by: dict[str, dict[str, Output]] = {}
    for who, message in (("the primary", primary), ("the other", other)):
        try:
            read_by[who] = read(message, config.outputs)
        except Unreadable as fault:
            return Match((f"{who}'s answer {fault}",), ())
    mine, theirs = read_by["the primary"], read_by["the other"]
    structure = [f"output {quoted(name)} is missing" for name in mine if name not in theirs]
    structure += [f"output {quoted(name)} is extra" for name in theirs if name not in mine]
    matched = []
    both = [name for name in mine if name in theirs and len(name) <= MAX_NAME]
    structure += ["an output's name is too long to be compared" for name in mine if len(name) > MAX_NAME][:1]
    for name in both[:MAX_OUTPUTS]:
        a, b = mine[name], theirs[name]
        if a.datatype != b.datatype:
            structure.append(f"output {quoted(name)} is {b.datatype}, not {a.datatype}")
        elif a.array.shape != b.array.shape:
            structure.append(f"output {quoted(name)} has another shape")
        elif a.array.size:
            matched.append(_floats(name, a, b, config) if a.is_float else _labels(name, a, b))
    return Match(tuple(structure[:MAX_OUTPUTS]), tuple(matched), len(both[MAX_OUTPUTS:]))


def crossings(threshold: ThresholdConfig, config: CompareConfig) -> list[Event]:
    """The events by which a rise over a threshold may be counted: its column goes by number, or by class where widths agree."""
    column = config.column_of(threshold)
    names = {str(column), config.column_name(column, len(config.classes)) if config.classes else str(column)}
    return [Event("rises", threshold.output, _line(name, threshold)) for name in names]


def _line(column: str, threshold: ThresholdConfig) -> str:
    return f"{column} at {threshold.at}"


def _labels(name: str, a: Output, b: Output) -> OutputMatch:
    differs = np.atleast_1d(a.array != b.array).ravel()
    count = int(differs.sum())
    events = {Event("label", name): count > 0}
    return OutputMatch(name, a, b, events, differs.size, count, None, None, int(differs.argmax()))


def _floats(name: str, a: Output, b: Output, config: CompareConfig) -> OutputMatch:
    # What is a step of the datatype apart is as equal as it can be.
    far = distance(a.array, b.array, max(config.rtol, 2 * a.step), config.atol)
    events = {Event("nonfinite", name): far.nonfinite > 0, Event("outside", name): far.outside > 0}
    same = far.max_abs == 0 and not far.nonfinite
    rows_a, rows_b = a.rows(), b.rows()
    width = rows_a.shape[1]
    common = None
    if width >= 2 and a.array.ndim == 2:
        events[Event("largest_column", name)] = not same and largest_columns(rows_a, rows_b) > 0
        if width > config.top_k:
            common = 1.0 if same else overlap(rows_a, rows_b, config.top_k)
    for threshold in config.thresholds:
        if threshold.output == name and (column := config.column_of(threshold)) < width:
            at = _line(config.column_name(column, width), threshold)
            rises, falls = (0, 0) if same else _crossings(rows_a[:, column], rows_b[:, column], threshold.at)
            events[Event("rises", name, at)] = rises > 0
            events[Event("falls", name, at)] = falls > 0
    return OutputMatch(name, a, b, events, a.array.size, far.outside, far, common, far.at)


def _crossings(a: NDArray[Any], b: NDArray[Any], line: float) -> tuple[int, int]:
    """Rows that are under the line in the primary's answer and not in the other, and the reverse; NaN is on neither side."""
    over, under = a >= line, a < line
    return int((under & (b >= line)).sum()), int((over & (b < line)).sum())
