"""The plots of a shadow's report, as data and layout for plotly.js.

Blue with round marks and outlines is the primary, orange and filled the shadow: two colours of Okabe and Ito (2008), which colour
blind readers tell apart and which differ in grey too. Plotly reads markup in texts, so every text that comes from outside is
escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from infermesh.cli.shadow_bins import Binned, bin_edges, bin_names, log_bins
from infermesh.cli.shadow_rows import events_first, found_by, outputs_first, shifts_first
from infermesh.cli.shadow_words import chance, event_words, percent, plain, short, value
from infermesh.protocol import shadow_reports_pb2 as pb

__all__ = ["PRIMARY", "SHADOW", "Plot", "plots"]

PRIMARY, SHADOW = "#0072B2", "#E69F00"
EDGE = "#7A5200"  # of what is filled orange: seen on white, and in grey
MAX_EVENTS, MAX_SIZES, MAX_SHIFTS = 20, 4, 8
MAX_LABELS = 12
GRID = "#e4e4e4"
_LABEL = 46  # characters of a name beside an axis
_RARE = (0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
_FREQUENT = (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)


@dataclass(frozen=True)
class Plot:
    """One plot under a sentence that says what to look at; `wide` ones take the page's width."""

    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    wide: bool = False
    height: int = 300


def plots(report: pb.Report) -> list[Plot]:
    """All plots for which there is something to draw."""
    return [*_events(report), *_sizes(report), *_latency(report), *_shifts(report)]


def _events(report: pb.Report) -> Iterable[Plot]:
    """Shares of calls with their intervals, the shadow over the primary itself."""
    every = [each for each in events_first(report) if each.shadow.of]
    events = every[:MAX_EVENTS][::-1]  # the lowest is drawn first
    if not events:
        return
    found = found_by(report)
    names = [_event_name(each, (each.what, each.output, each.detail) in found) for each in events]
    series = [
        ("shadow", [each.shadow for each in events], 0.14, SHADOW, "square", EDGE),
        (
            "primary beside its own second answer",
            [each.repeat for each in events],
            -0.14,
            PRIMARY,
            "circle-open",
            PRIMARY,
        ),
    ]
    data = []
    for name, shares, lift, colour, symbol, edge in series:
        points = [
            (at + lift, share, text) for at, (share, text) in enumerate(zip(shares, names, strict=True)) if share.of
        ]
        if not points:
            continue
        at_x = [math.sqrt(share.hits / share.of) for _, share, _ in points]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": at_x,
                "y": [at for at, _, _ in points],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [
                        max(0.0, math.sqrt(share.high) - x) for (_, share, _), x in zip(points, at_x, strict=True)
                    ],
                    "arrayminus": [
                        max(0.0, x - math.sqrt(share.low)) for (_, share, _), x in zip(points, at_x, strict=True)
                    ],
                    "color": edge,
                    "thickness": 2,
                    "width": 4,
                },
                "marker": {"color": colour, "symbol": symbol, "size": 9, "line": {"color": edge, "width": 1.5}},
                "text": [
                    f"{text}: {share.hits:,} of {share.of:,} calls, 95 % {percent(share.low)} to {percent(share.high)}"
                    for _, share, text in points
                ],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    most = max(max(each.shadow.high, each.repeat.high if each.repeat.of else 0.0) for each in events)
    # Rare and frequent on one axis, with a place for 0, which a logarithmic one has not.
    ticks = [share for share in (_RARE if most <= 0.2 else _FREQUENT) if share <= most * 1.1]
    layout = {
        "xaxis": {
            "title": {"text": "share of the calls in %, with its 95 % interval (square-root scale)"},
            "range": [-0.02 * math.sqrt(most), 1.03 * math.sqrt(most)],
            "tickvals": [math.sqrt(share) for share in ticks],
            "ticktext": [f"{share * 100:g}" for share in ticks],
            "zeroline": False,
            "gridcolor": GRID,
        },
        "yaxis": {
            "title": {"text": ""},
            "tickvals": list(range(len(events))),
            "ticktext": names,
            "range": [-0.6, len(events) - 0.4],
            "automargin": True,
            "zeroline": False,
            "showgrid": False,
        },
    }
    cut = f" The first {MAX_EVENTS} of {len(every)} are drawn." if len(every) > MAX_EVENTS else ""
    title = (
        "How often do they differ? Orange right of blue: more often than the primary from itself; ● is more than noise."
    )
    yield Plot(title + cut, data, layout, wide=True, height=120 + 40 * len(events))


def _sizes(report: pb.Report) -> Iterable[Plot]:
    """How far outputs are off, beside how far the primary is off itself."""
    found = found_by(report)
    for each in [each for each in outputs_first(report) if each.max_abs.count][:MAX_SIZES]:
        binned = log_bins([each.differences, each.differences_repeat])
        if binned is None or set(binned.places) == {binned.zero}:
            continue  # all of them are equal: nothing to draw
        names = [f"shadow − primary ({each.max_abs.count:,})", f"primary − itself ({each.max_abs_repeat.count:,})"]
        data, layout = _drawn(
            binned, names, "largest difference of a call, in units of the output", "share of the calls in %"
        )
        mark = "● " if ("magnitude", each.name, "") in found else ""
        title = f"{mark}How far is {short(each.name, _LABEL)} off? Orange right of blue: further than the primary from itself."
        yield Plot(title, data, layout)


def _shifts(report: pb.Report) -> Iterable[Plot]:
    """How columns and labels are distributed, the largest PSI first."""
    found = found_by(report)
    for each in [each for each in shifts_first(report) if each.HasField("psi") and each.bins][:MAX_SHIFTS]:
        primary, shadow = _shares(each.primary), _shares(each.shadow)
        if not len(primary) == len(shadow) == len(each.bins) or not any(primary):
            continue
        names = [plain(name) for name in bin_names(each)]
        apart = [abs(b - a) for a, b in zip(primary, shadow, strict=True)]
        most = apart.index(max(apart))
        mark = "● " if ("shift", each.output, each.column) in found else ""
        tested = f", p {_equals(each.p_adjusted)}" if each.HasField("p_adjusted") else ""
        where = (
            f'furthest apart at "{names[most]}": the shadow has {shadow[most]:.1f} %, the primary {primary[most]:.1f} %'
        )
        title = (
            f"{mark}{_column(each)}: PSI {value(each.psi)}{tested}; {where if apart[most] else 'both are the same'}."
        )
        shown = [at for at in range(len(names)) if primary[at] or shadow[at]]
        if not each.HasField("mean") and len(shown) > MAX_LABELS:
            shown = sorted(sorted(shown, key=lambda at, far=apart: -far[at])[:MAX_LABELS])  # type: ignore[misc]
            title += f" The {MAX_LABELS} labels furthest apart are drawn, of {len(names):,}."
        height = 300 if each.HasField("mean") else max(300, 110 + 28 * len(shown))
        yield Plot(title, *_beside(each, names, primary, shadow, shown), height=height)


def _beside(
    shift: pb.Shift, names: Sequence[str], primary: Sequence[float], shadow: Sequence[float], shown: Sequence[int]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Bars of both side by side: upright over the edges of a column's bins, lying beside the names of labels."""
    data = []
    for who, shares, colour, edge in (("primary", primary, PRIMARY, PRIMARY), ("shadow", shadow, SHADOW, EDGE)):
        bars = _bars(
            who, list(range(len(shown))), [shares[at] for at in shown], [names[at] for at in shown], colour, edge
        )
        data.append(bars)
    share: dict[str, Any] = {"title": {"text": "share of the pairs in %"}, "rangemode": "tozero", "gridcolor": GRID}
    about = {"text": escape(f"{'value' if shift.HasField('mean') else 'label'} of {_column(shift)}")}
    if shift.HasField("mean"):
        ends = [(at + 0.5, edge) for at, edge in enumerate(bin_edges(shift, shown)) if edge]
        if shown and shift.bins[shown[-1]] == "NaN":
            ends.append((len(shown) - 1.0, "NaN"))
        axis = {
            "title": about,
            "tickvals": [at for at, _ in ends],
            "ticktext": [edge for _, edge in ends],
            "tickangle": 0,
        }
        return data, {"barmode": "group", "bargap": 0.12, "xaxis": {**axis, "showgrid": False}, "yaxis": share}
    for each in data:
        each["x"], each["y"], each["orientation"] = each["y"], each["x"], "h"
        each["hovertemplate"] = each["hovertemplate"].replace("%{y", "%{x")
    texts = [escape(short(names[at], 28)) for at in shown]
    axis = {
        "title": about,
        "tickvals": list(range(len(shown))),
        "ticktext": texts,
        "automargin": True,
        "autorange": "reversed",
    }
    return data, {"barmode": "group", "bargap": 0.25, "xaxis": share, "yaxis": axis}


def _latency(report: pb.Report) -> Iterable[Plot]:
    """How long both took."""
    latency = report.latency
    binned = log_bins([latency.shadow_histogram, latency.primary_histogram], scale=1e3, per_decade=10)
    if binned is None:
        return
    names = [f"shadow ({latency.shadow.count:,})", f"primary ({latency.primary.count:,})"]
    data, layout = _drawn(binned, names, "latency in ms, seen from the gateway", "share of the pairs in %")
    title = "How long do they take? Orange to the right of the blue outline: the shadow is slower. It is not judged."
    yield Plot(title, data, layout)


def _drawn(binned: Binned, names: Sequence[str], x: str, y: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Two histograms on one logarithmic axis: the first as filled bars, the second as an outline over them."""
    first, second = binned.shares
    hover = [f"{binned.name(at)}" for at in binned.places]
    data: list[dict[str, Any]] = []
    if any(first):
        bars = _bars(names[0], binned.places, first, hover, SHADOW, EDGE)
        data.append({**bars, "width": [1.0] * len(binned.places)})
    if any(second):
        across: list[float | None] = []
        up: list[float | None] = []
        last = None
        for at, share in zip(binned.places, second, strict=True):
            if last is not None and at != last + 1:  # nothing lies between
                across += [last + 0.5, None, at - 0.5]
                up += [0.0, None, 0.0]
            elif last is None:
                across.append(at - 0.5)
                up.append(0.0)
            across += [at - 0.5, at + 0.5]
            up += [share, share]
            last = at
        if last is not None:
            across.append(last + 0.5)
            up.append(0.0)
        line = {"color": PRIMARY, "width": 2.5}
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": names[1],
                "x": across,
                "y": up,
                "line": line,
                "hoverinfo": "skip",
            }
        )
    ticks, texts = binned.ticks()
    layout = {
        "bargap": 0,
        "xaxis": {"title": {"text": x}, "tickvals": ticks, "ticktext": texts, "gridcolor": GRID, "zeroline": False},
        "yaxis": {"title": {"text": y}, "rangemode": "tozero", "gridcolor": GRID},
    }
    return data, layout


def _bars(
    name: str, x: Sequence[int], y: Sequence[float], texts: Sequence[str], colour: str, edge: str
) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": list(x),
        "y": list(y),
        "text": [escape(text) for text in texts],
        "textposition": "none",
        "hovertemplate": f"%{{text}}: %{{y:.2f}} %<extra>{escape(name)}</extra>",
        "marker": {"color": colour, "line": {"color": edge, "width": 1}},
    }


def _event_name(event: pb.Event, is_found: bool) -> str:
    output = f"{short(event.output, 24)}: " if event.output else ""
    return escape(("● " if is_found else "") + short(f"{output}{event_words(event.what, event.detail)}", 64))


def _column(shift: pb.Shift) -> str:
    return short(f"{shift.output} {shift.column}".strip(), _LABEL)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [count / total * 100 if total else math.nan for count in counts]


def _equals(p: float) -> str:
    return text if (text := chance(p)).startswith("<") else f"= {text}"
