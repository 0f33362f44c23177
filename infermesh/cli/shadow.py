"""`infermesh shadow`: how the answers of shadows differ from the primary's, by the gateway's report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson
from rich.text import Text

from infermesh.cli.asking import DEFAULT_TARGET, Key, Target, Timeout, asked, refused
from infermesh.cli.console import err, out
from infermesh.cli.failure import Failure
from infermesh.cli.html_page import plotly_js
from infermesh.cli.shadow_page import page
from infermesh.cli.shadow_rows import not_compared
from infermesh.cli.shadow_table import overview, shown
from infermesh.cli.shadow_words import plain
from infermesh.errors import MeshError, NotFound, Unimplemented
from infermesh.protocol import shadow_reports_pb2 as pb
from infermesh.transport.outside import OutsideCaller

__all__ = ["app", "shadow_reports"]

app = typer.Typer(no_args_is_help=True, help="Shadows: how their answers differ from the primary's.")

SERVICE = pb.DESCRIPTOR.services_by_name["ShadowReports"].full_name
ROWS = 10

Model = Annotated[str, typer.Argument(metavar="MODEL", help="As the route names it.")]
Shadow = Annotated[str, typer.Option("--shadow", metavar="NAME", help="This one; left out: every shadow.")]


@app.command("report", no_args_is_help=True)
def report_shadows(
    model: Model,
    shadow: Shadow = "",
    variant: Annotated[
        str, typer.Option("--variant", metavar="NAME", help="Beside this variant; left out: beside every one.")
    ] = "",
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=1, help="At most so many rows of each table.")] = ROWS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the gateway's answer as JSON, with all it holds.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with plots, which needs no network.", dir_okay=False),
    ] = None,
    fail_on_difference: Annotated[
        bool, typer.Option("--fail-on-difference", help="Exit with 1 when a shadow differs by more than noise.")
    ] = False,
    target: Target = DEFAULT_TARGET,
    key: Key = "",
    timeout: Timeout = 30.0,
) -> None:
    """Report how the shadows of a model differ from its primary, and whether that is more than noise."""
    script = plotly_js() if html is not None else ""  # what is missing is said before anybody is asked
    with _gateway(target, key, timeout) as caller:
        answer = shadow_reports(caller, model, shadow)
    if variant:
        _keep_variant(answer, variant)
    if html is not None:
        _write(html, page(answer, script))
        err.print(Text(f"written: {html}"), soft_wrap=True)
    if as_json:
        out.print(Text(MessageToJson(answer, preserving_proto_field_name=True)), soft_wrap=True)
    elif html is None:
        for at, report in enumerate(answer.reports):
            out.print(Text("\n") if at else "", shown(report, rows), sep="", end="")
        if lost := not_compared(answer.not_compared):
            out.print(Text(f"\n{lost}", "yellow"))
    else:
        out.print(overview(answer.reports))
    if fail_on_difference and any(each.verdict.state == pb.Verdict.DIFFERS for each in answer.reports):
        raise typer.Exit(1)


@app.command("ls")
def list_shadows(target: Target = DEFAULT_TARGET, key: Key = "", timeout: Timeout = 30.0) -> None:
    """List what is compared, model by model, with the verdicts."""
    with _gateway(target, key, timeout) as caller:
        answer = shadow_reports(caller, "", "")
    out.print(overview(answer.reports) if answer.reports else Text("nothing was compared yet"))
    if lost := not_compared(answer.not_compared):
        out.print(Text(lost, "yellow"))


@app.command("reset", no_args_is_help=True)
def reset_shadows(
    model: Model, shadow: Shadow = "", target: Target = DEFAULT_TARGET, key: Key = "", timeout: Timeout = 30.0
) -> None:
    """Forget what was counted and begin anew, as after a new version of the candidate."""
    with _gateway(target, key, timeout) as caller:
        request = pb.ResetRequest(model=model, shadow=shadow)
        forgotten = caller.call(f"{SERVICE}/Reset", request, pb.ResetResponse).forgotten
    of = plain(model) + (f", shadow {plain(shadow)}" if shadow else "")
    if forgotten:
        out.print(Text(f"{of}: {forgotten} comparison{'s begin' if forgotten > 1 else ' begins'} anew"))
    else:
        out.print(Text(f"{of}: nothing to forget"))


@contextmanager
def _gateway(target: str, key: str, timeout_s: float) -> Iterator[OutsideCaller]:
    """A caller whose refusals come with the hints that fit reports."""
    with asked(target, key, timeout_s) as caller:
        try:
            yield caller
        except MeshError as error:
            failure = refused(error)
            if isinstance(error, NotFound):
                failure.hint = "`infermesh shadow ls` lists what was compared"
            elif isinstance(error, Unimplemented):
                failure.hint = "a gateway with `compare: {enabled: true}` has reports; --target names another"
            raise failure from None


def shadow_reports(caller: OutsideCaller, model: str, shadow: str = "") -> pb.ReportResponse:
    """The gateway's answer; empty names mean all. Raises MeshError."""
    return caller.call(f"{SERVICE}/Report", pb.ReportRequest(model=model, shadow=shadow), pb.ReportResponse)


def _keep_variant(answer: pb.ReportResponse, variant: str) -> None:
    """Leave the reports of one variant."""
    kept = [each for each in answer.reports if each.variant == variant]
    if not kept:
        known = ", ".join(sorted({plain(each.variant) for each in answer.reports}))
        raise Failure(f"--variant {variant!r}: nothing was compared with it; there is {known}", status=2)
    del answer.reports[:]
    answer.reports.extend(kept)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise Failure(f"--html {file}: {fault.strerror}", status=2) from None
