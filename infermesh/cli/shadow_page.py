"""A shadow's report as one HTML page that needs no network: the verdict first, then plots, then the numbers.

Model names, request ids, labels and values come from whoever sent a call or made a model. All of them are escaped, and the page's
own policy lets no script run but those whose digests it names, and fetches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from infermesh.cli.html_page import document
from infermesh.cli.shadow_plots import PRIMARY, SHADOW, Plot, plots
from infermesh.cli.shadow_rows import WORST, Rows, not_compared, tables
from infermesh.cli.shadow_words import heading, period, plain, state_of
from infermesh.protocol import shadow_reports_pb2 as pb

__all__ = ["page"]

MAX_ROWS = 100
MAX_FINDINGS = 8
MAX_PLOTTED = 8  # comparisons that get plots: each holds up to a dozen
_SHAPE = {
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    "margin": {"l": 60, "r": 16, "t": 36, "b": 50},
    "plot_bgcolor": "#fff",
    "paper_bgcolor": "#fff",
}
_TITLE = {"font": {"size": 13}, "standoff": 8}


def page(answer: pb.ReportResponse, script: str) -> str:
    """The page; `script` is plotly.js."""
    drawn: list[Plot] = []
    body = "".join(_body(answer, drawn))
    figures = [{"data": each.data, "layout": _shaped(each)} for each in drawn]
    models = ", ".join(dict.fromkeys(plain(each.model) for each in answer.reports))
    return document(f"{models}: shadow report", body, figures, script)


def _body(answer: pb.ReportResponse, drawn: list[Plot]) -> Iterator[str]:
    if len(answer.reports) > 1:
        yield "<nav><h1>Shadow reports</h1>\n<ul>\n"
        for at, report in enumerate(answer.reports):
            state = state_of(report)
            yield f'<li class="{state.kind}"><a href="#r{at}">{escape(heading(report))}</a>: <b>{state.word}</b>, '
            yield f"{escape(plain(report.verdict.text))}</li>\n"
        yield "</ul></nav>\n"
    for at, report in enumerate(answer.reports):
        yield f'<main id="r{at}">\n'
        yield from _verdict(report)
        if at < MAX_PLOTTED:
            yield from _plots(report, drawn)
        else:
            yield f"<p>Plots are drawn of the first {MAX_PLOTTED} comparisons; --shadow and --variant choose others.</p>\n"
        every = tables(report, MAX_ROWS)
        for rows in sorted(every, key=lambda each: each.title != WORST):  # the plots show the others already
            yield from _table(rows)
        yield "</main>\n"
    if lost := not_compared(answer.not_compared):
        yield f"<p>{escape(lost)}</p>\n"


def _verdict(report: pb.Report) -> Iterator[str]:
    state = state_of(report)
    yield f"<h1>{escape(heading(report))}</h1>\n"
    yield f'<section class="verdict {state.kind}"><p><strong>{state.word}</strong> {escape(plain(report.verdict.text))}</p>\n'
    found = [f"<li>{escape(plain(each.text))}</li>\n" for each in report.verdict.findings]
    if found:
        yield f"<ul>\n{''.join(found[:MAX_FINDINGS])}</ul>\n"
    if rest := found[MAX_FINDINGS:]:
        yield f"<details><summary>and {len(rest):,} other findings</summary><ul>\n{''.join(rest)}</ul></details>\n"
    yield "</section>\n"
    notes = "".join(f"<li>{escape(plain(each))}</li>\n" for each in report.verdict.notes)
    yield f'<section class="notes"><h2>Notes</h2><ul>\n{notes}</ul></section>\n' if notes else ""
    yield f'<p class="period">{escape(period(report))}</p>\n'


def _plots(report: pb.Report, drawn: list[Plot]) -> Iterator[str]:
    made = plots(report)
    if not made:
        yield "<p>There is nothing to draw yet.</p>\n"
        return
    yield f'<p class="key"><b style="background:{SHADOW}"></b> shadow <b style="background:{PRIMARY}"></b> primary</p>\n'
    yield "<noscript><p>The plots need JavaScript; the tables below have all their numbers.</p></noscript>\n"
    yield '<div class="plots">\n'
    for plot in made:
        wide = ' class="wide"' if plot.wide else ""
        yield f"<figure{wide}><figcaption>{escape(plot.title)}</figcaption>"
        yield f'<div class="plot" data-figure="{len(drawn)}" style="min-height:{plot.height}px"></div></figure>\n'
        drawn.append(plot)
    yield "</div>\n"


def _table(rows: Rows) -> Iterator[str]:
    yield f"<section><h2>{escape(rows.title)}</h2>\n<table>\n<tr>"
    kinds = [_kind(name, rows) for name in rows.columns]
    yield "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, rows.columns, strict=True))
    yield "</tr>\n"
    for at, row in enumerate(rows.rows):
        yield '<tr class="found">' if at in rows.found else "<tr>"
        yield "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        yield "</tr>\n"
    yield "</table>\n"
    if rows.left_out:
        yield f"<p>and {rows.left_out:,} others; `infermesh shadow report --json` has all</p>\n"
    if rows.says:
        yield f"<p>{escape(rows.says)}</p>\n"
    yield "</section>\n"


def _shaped(plot: Plot) -> dict[str, Any]:
    axes = {
        name: {**plot.layout[name], "title": {**plot.layout[name]["title"], **_TITLE}} for name in ("xaxis", "yaxis")
    }
    return {**_SHAPE, **plot.layout, **axes, "height": plot.height}


def _kind(column: str, rows: Rows) -> str:
    kind = "number" if column in rows.numbers else "whole" if column in rows.whole else ""
    return f' class="{kind}"' if kind else ""
