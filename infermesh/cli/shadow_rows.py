"""The tables of a shadow's report as rows of text, whatever they are then drawn with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from infermesh.cli.shadow_words import (
    ITSELF,
    briefly,
    chance,
    event_words,
    milliseconds,
    moment,
    percent,
    plain,
    short,
    signed,
    value,
)
from infermesh.protocol import shadow_reports_pb2 as pb

__all__ = ["WORST", "Rows", "events_first", "found_by", "not_compared", "outputs_first", "shifts_first", "tables"]

WORST = "worst disagreements"
UUID = 36  # characters
MAX_ID, MAX_WHERE = 128, 40

Found = frozenset[tuple[str, str, str]]  # what, output, detail


@dataclass(frozen=True)
class Rows:
    """One table: columns (those in `numbers` are numbers, aligned to the right), its rows, and how many more there are.

    A line break in a heading is where it may be broken: what stands under it is narrower.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: frozenset[str] = frozenset()
    found: frozenset[int] = frozenset()  # rows that are findings
    left_out: int = 0
    says: str = ""  # how it is read
    whole: frozenset[str] = field(default=frozenset())  # columns that are never wrapped, beside the numbers


def tables(report: pb.Report, limit: int) -> list[Rows]:
    """All tables that have something to say, in the order in which they are read."""
    found = found_by(report)
    every = [_events(report, found), _structure(report), _outputs(report, found), _shifts(report, found)]
    every += [_latency(report), _failures(report), _worst(report)]
    return [_cut(each, limit) for each in every if each.rows]


def not_compared(counts: Mapping[str, int]) -> str:
    """The pairs that nothing is known of, in a sentence; empty without any."""
    lost = [f"{count:,} {plain(why)}" for why, count in sorted(counts.items()) if count]
    return f"pairs not compared since the gateway started, of all models: {', '.join(lost)}" if lost else ""


def found_by(report: pb.Report) -> Found:
    """What the verdict's findings are about."""
    return frozenset((each.what, each.output, each.detail) for each in report.verdict.findings)


def events_first(report: pb.Report) -> list[pb.Event]:
    """Events: findings first, then by how much more often than between the primary and itself."""
    found = found_by(report)

    def order(event: pb.Event) -> tuple[bool, float]:
        return (event.what, event.output, event.detail) not in found, _share(event.repeat) - _share(event.shadow)

    return sorted(report.events, key=order)


def outputs_first(report: pb.Report) -> list[pb.Output]:
    """Outputs: findings first, then in the answer's order."""
    found = found_by(report)
    return sorted(report.outputs, key=lambda each: ("magnitude", each.name, "") not in found)


def shifts_first(report: pb.Report) -> list[pb.Shift]:
    """Distributions: the largest PSI first, those without one last."""
    return sorted(report.shifts, key=lambda each: -each.psi if each.HasField("psi") else 1.0)


def _events(report: pb.Report, found: Found) -> Rows:
    events = events_first(report)
    numbers = ("shadow", "95 %\ninterval", "primary\nitself", "its 95 %\ninterval", "p,\nadjusted")
    return Rows(
        "what differs, in how many of the calls",
        ("what", "output", *numbers),
        [
            (
                event_words(each.what, each.detail),
                plain(each.output),
                *_interval(each.shadow),
                *_interval(each.repeat),
                chance(each.p_adjusted if each.HasField("p_adjusted") else None),
            )
            for each in events
        ],
        frozenset(numbers),
        frozenset(at for at, each in enumerate(events) if (each.what, each.output, each.detail) in found),
    )


def _structure(report: pb.Report) -> Rows:
    rows = [(plain(each.what), f"{each.count:,}") for each in report.structure]
    return Rows("structure", ("what", "calls"), rows, frozenset({"calls"}))


def _outputs(report: pb.Report, found: Found) -> Rows:
    overlap = any(each.HasField("overlap") for each in report.outputs)
    sizes = ("p50", "p99", "largest", "rel.\np50", "rel.\np99", "rel.\nmax")
    columns = ("output", "beside", "elements\noff", *sizes, *(["overlap"] if overlap else []), "p,\nadjusted")
    rows: list[tuple[str, ...]] = []
    marked = set()
    for each in outputs_first(report):
        if ("magnitude", each.name, "") in found:
            marked.add(len(rows))
        off = percent(each.differing / each.elements) if each.elements else "–"
        shared = [percent(each.overlap) if each.HasField("overlap") else "–"] if overlap else []
        p = chance(each.max_abs_p_adjusted if each.HasField("max_abs_p_adjusted") else None)
        mine = (*_sizes(each.max_abs), *_sizes(each.max_rel))
        rows.append((f"{plain(each.name)} ({plain(each.datatype)})", "shadow", off, *mine, *shared, p))
        if each.max_abs_repeat.count:
            shared = [percent(each.overlap_repeat) if each.HasField("overlap_repeat") else "–"] if overlap else []
            itself = (*_sizes(each.max_abs_repeat), *_sizes(each.max_rel_repeat))
            rows.append(("", "itself", "", *itself, *shared, ""))
    says = (
        "of each call the largest difference from the primary, in units of the output; rel.: over the larger of the two"
    )
    return Rows(
        "sizes of differences",
        columns,
        rows,
        frozenset(columns[2:]),
        frozenset(marked),
        says=says + ("; overlap: what the largest columns of a row have in common" if overlap else ""),
    )


def _shifts(report: pb.Report, found: Found) -> Rows:
    shifts = shifts_first(report)
    numbers = ("PSI", "p,\nadjusted", "mean of\nshadow − primary", "95 %\ninterval", "pairs")
    rows = []
    for each in shifts:
        has_mean = each.HasField("mean") and each.HasField("mean_low") and each.HasField("mean_high")
        rows.append(
            (
                plain(each.output),
                plain(each.column),
                value(each.psi) if each.HasField("psi") else "–",
                chance(each.p_adjusted if each.HasField("p_adjusted") else None),
                signed(each.mean) if has_mean else "–",
                f"{signed(each.mean_low)} to {signed(each.mean_high)}" if has_mean else "–",
                f"{each.pairs:,}",
            )
        )
    return Rows(
        "distributions, over all calls",
        ("output", "column", *numbers),
        rows,
        frozenset(numbers),
        frozenset(at for at, each in enumerate(shifts) if ("shift", each.output, each.column) in found),
        says="PSI: 0 for equal distributions; how much is large depends on how many pairs there are, which p takes into account",
    )


def _latency(report: pb.Report) -> Rows:
    latency = report.latency
    numbers = ("pairs", "p50", "p99", "largest")
    rows = [
        (who, f"{of.count:,}", milliseconds(of.p50), milliseconds(of.p99), milliseconds(of.largest))
        for who, of in (("primary", latency.primary), ("shadow", latency.shadow))
        if of.count
    ]
    says = "seen from the gateway; not judged, since the two run under different load"
    if rows:
        difference = milliseconds(latency.median_difference, sign=True)
        says = f"shadow − primary, median over the pairs: {difference}; {says}"
    return Rows("latency", ("who", *numbers), rows, frozenset(numbers), says=says)


def _failures(report: pb.Report) -> Rows:
    rows = [
        (plain(each.primary), who, plain(each.other), f"{each.count:,}", percent(each.count / total))
        for who, codes in (("shadow", report.codes), (ITSELF, report.repeat_codes))
        if (total := sum(each.count for each in codes))
        for each in codes
        if (each.primary, each.other) != ("OK", "OK")
    ]
    columns = ("primary", "beside", "its code", "calls", "of the calls")
    return Rows("failures, which are not compared", columns, rows, frozenset(columns[3:]))


def _worst(report: pb.Report) -> Rows:
    rows = [
        (
            short(each.request_id, MAX_ID) or "(no id)",
            moment(each.at_s, "%m-%d %H:%M:%S"),
            ", ".join(briefly(what) for what in each.what),
            f"{short(each.where, MAX_WHERE)}\n{plain(each.primary)} → {plain(each.other)}" if each.where else "",
        )
        for each in report.worst
    ]
    columns = ("request id", "UTC", "what", "where, primary → shadow")
    # An id is there to be copied: one of a usual length is never broken.
    whole = {"UTC"} | ({"request id"} if max((len(row[0]) for row in rows), default=0) <= UUID else set())
    says = (
        "↑: reached by the shadow alone, ↓: by the primary alone"
        if any("↑" in r[2] or "↓" in r[2] for r in rows)
        else ""
    )
    return Rows(WORST, columns, rows, whole=frozenset(whole), says=says)


def _cut(rows: Rows, limit: int) -> Rows:
    if len(rows.rows) <= limit:
        return rows
    return Rows(
        rows.title,
        rows.columns,
        rows.rows[:limit],
        rows.numbers,
        rows.found,
        len(rows.rows) - limit,
        rows.says,
        rows.whole,
    )


def _interval(of: pb.Proportion) -> Iterable[str]:
    if not of.of:
        return "–", "–"
    return percent(of.hits / of.of), f"{percent(of.low).removesuffix(' %')}–{percent(of.high)}"


def _sizes(of: pb.Quantiles) -> tuple[str, ...]:
    return (value(of.p50), value(of.p99), value(of.largest)) if of.count else ("–", "–", "–")


def _share(of: pb.Proportion) -> float:
    return of.hits / of.of if of.of else 0.0
