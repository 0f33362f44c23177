"""A shadow's report in a terminal: the verdict first, and then the tables that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from infermesh.cli.shadow_rows import Rows, tables
from infermesh.cli.shadow_words import heading, period, plain, state_of
from infermesh.protocol import shadow_reports_pb2 as pb

__all__ = ["overview", "shown"]

INDENT = (0, 0, 0, 2)


def shown(report: pb.Report, limit: int) -> RenderableType:
    """One comparison; of each table at most `limit` rows."""
    return Group(*_parts(report, limit))


def overview(reports: Sequence[pb.Report]) -> Table:
    """One line for each comparison."""
    table = _table(
        Rows("", ("model", "shadow", "variant", "pairs", "repeats", "verdict"), (), frozenset({"pairs", "repeats"}))
    )
    for each in reports:
        state = state_of(each)
        verdict = Text.assemble((state.word, state.style), f"  {plain(each.verdict.text)}")
        table.add_row(
            *(Text(plain(name)) for name in (each.model, each.shadow, each.variant)),
            f"{each.pairs:,}",
            f"{each.repeats:,}",
            verdict,
        )
    return table


def _parts(report: pb.Report, limit: int) -> Iterator[RenderableType]:
    state = state_of(report)
    yield Text(heading(report), "bold")
    yield Text.assemble((state.word, state.style), f": {plain(report.verdict.text)}")
    for finding in report.verdict.findings[:limit]:
        yield _item("●", plain(finding.text), "red")
    if len(report.verdict.findings) > limit:
        yield Padding(Text(_others(len(report.verdict.findings) - limit), "dim"), INDENT, expand=False)
    for note in report.verdict.notes:
        yield _item("note:", plain(note), "yellow")
    yield Text(period(report), "dim")
    for rows in tables(report, limit):
        yield Text.assemble("\n", (rows.title, "bold"))
        yield Padding(_filled(rows), INDENT, expand=False)
        if rows.left_out:
            yield Padding(Text(_others(rows.left_out), "dim"), INDENT, expand=False)
        if rows.says:
            yield Padding(Text(rows.says, "dim"), INDENT, expand=False)


def _item(mark: str, text: str, style: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style), Text(text))
    return Padding(grid, INDENT, expand=False)


def _filled(rows: Rows) -> Table:
    table = _table(rows)
    for at, row in enumerate(rows.rows):
        table.add_row(*(Text(cell) for cell in row), style="red" if at in rows.found else "")
    return table


def _table(rows: Rows) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in rows.columns:
        number = column in rows.numbers
        table.add_column(
            Text(column), justify="right" if number else "left", overflow="fold", no_wrap=number or column in rows.whole
        )
    return table


def _others(count: int) -> str:
    return f"and {count:,} others; --rows shows more, --json has all"
