"""`infermesh explain`: what moved a prediction, as bars, as reasons, or as a page with plots."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from infermesh.cli.answer import as_json, headline
from infermesh.cli.asking import DEFAULT_TARGET, Key, Target, Timeout, asked
from infermesh.cli.bars import share_bar
from infermesh.cli.console import err, out
from infermesh.cli.explain_page import page
from infermesh.cli.explain_stream import last_of
from infermesh.cli.explain_words import about, counted, no_reasons, shown_column
from infermesh.cli.explanation import EXPLAINED, Explanation, chart
from infermesh.cli.failure import Failure
from infermesh.cli.html_page import plotly_js
from infermesh.cli.inputs import File, Json, Pairs, Params, Version, check_sources, known_values, request_from
from infermesh.cli.request import add_parameters
from infermesh.cli.values import InputSpec, input_specs
from infermesh.names import EXPLAINER_SUFFIX
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse

__all__ = ["explain", "ranking", "reason_lines"]

ROWS = 3


def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model whose answer is explained.")],
    values: Pairs = None,
    json: Json = None,
    file: File = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="auto, exact, permutation, kernel, linear or tree.")] = "",
    output: Annotated[
        str, typer.Option("--output", metavar="NAME", help="The model's output; left out: its first score.")
    ] = "",
    classes: Annotated[
        str, typer.Option(metavar="NAME", help="A column of it, such as fraud; left out: the likeliest.")
    ] = "",
    link: Annotated[str, typer.Option(metavar="SCALE", help="identity or logit: probabilities, or log-odds.")] = "",
    max_evals: Annotated[int, typer.Option(min=0, metavar="N", help="Most evaluations of a row.")] = 0,
    tolerance: Annotated[
        float, typer.Option(min=0, metavar="ERROR", help="Stop when no standard error is larger.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of what is drawn.")] = 0,
    background: Annotated[str, typer.Option(metavar="NAME", help="Rows that stand for what is not known.")] = "",
    groups: Annotated[
        str, typer.Option(metavar="JSON", help='Features as one: inputs, or {"card": ["limit", …]}.')
    ] = "",
    reasons: Annotated[int, typer.Option(min=0, max=10, metavar="N", help="So many reason codes for each row.")] = 0,
    adverse: Annotated[str, typer.Option(metavar="up|down", help="What the reasons are about.")] = "",
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Features with a bar of their own.")] = 12,
    rows: Annotated[
        int, typer.Option(min=1, metavar="N", help="Rows that are drawn; of more, the importance is.")
    ] = ROWS,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with plots, which needs no network.", dir_okay=False),
    ] = None,
    raw_json: Annotated[
        bool, typer.Option("--raw-json", help="Print the whole response as JSON, in OIP's REST form.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Show better and better answers, until the last, on a terminal.")
    ] = False,
    version: Version = "",
    param: Params = None,
    target: Target = DEFAULT_TARGET,
    key: Key = "",
    timeout: Timeout = 30.0,
) -> None:
    """Explain a model's answer by Shapley values: how far each feature moved it from the answer to the background.

    [bold]Examples[/]

      infermesh explain iris features=5.9,3.0,5.1,1.8

      infermesh explain credit-score --file samples/requests/credit-score.json --classes defaulted --reasons 4

      infermesh explain fraud-detector --file payments.json --method tree --html why.html

    Features from the store are explained like those of the request, for a model that takes ids. The exit status is 0 for an
    answer, 1 for a refusal by the server, 2 for a mistake on this line.
    """
    check_sources(values, json, file)
    script = plotly_js() if html is not None else ""  # what is missing is said before anybody is asked
    with asked(target, key, timeout) as caller:
        metadata = caller.metadata(model, version)
        specs = input_specs(metadata)
        request = request_from(model, values, json, file, specs)
        request.model_name, request.model_version = model + EXPLAINER_SUFFIX, version
        add_parameters(request, param or [])
        texts = {
            "method": method,
            "output": output,
            "classes": classes,
            "link": link,
            "background": background,
            "groups": groups,
        }
        for name, text in {**texts, "adverse": adverse}.items():
            if text:
                request.parameters[name].string_param = text
        for name, number in {"max_evals": max_evals, "seed": seed, "reasons": reasons}.items():
            if number:
                request.parameters[name].int64_param = number
        if tolerance:
            request.parameters["tolerance"].double_param = tolerance
        del request.outputs[:]
        for name in (*EXPLAINED, "feature_values", *(["reasons"] if reasons else [])):
            request.outputs.add(name=name)
        started = time.perf_counter()

        def view(now: ModelInferResponse) -> RenderableType:
            seconds = time.perf_counter() - started
            explanation = Explanation.read(now)
            column = shown_column(explanation, classes, bool(reasons), now)
            return Group(
                headline(now, seconds),
                Text(f"  {about(now)}", "bright_black"),
                *_shown(explanation, _values(explanation, request, specs), column, counted(adverse), rows, top),
            )

        response = last_of(caller.stream(request), view) if stream else caller.infer(request)
        answer = view(response) if not raw_json and html is None else None
        described = caller.metadata(request.model_name, version).properties if html is not None else {}
    if raw_json:
        print(as_json(response))
        return
    if html is not None:
        explanation = Explanation.read(response)
        column = shown_column(explanation, classes, bool(reasons), response)
        text = page(response, explanation, column, script, properties=described, adverse=adverse, background=background)
        _write(html, text)
        err.print(Text(f"written: {html}"), soft_wrap=True)
        return
    out.print(answer)


def ranking(explanation: Explanation, column: int, top: int) -> RenderableType:
    """The features of all rows by mean |attribution|, the largest first."""
    means = abs(explanation.attributions[:, :, column]).mean(axis=0)
    order = sorted(range(len(means)), key=lambda i: -means[i])
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
    largest = float(means.max(initial=0.0))
    for i in order[:top]:
        share = float(means[i]) / largest if largest else 0.0
        table.add_row(Text(explanation.features[i]), share_bar(share, 30), f"{means[i]:.4f}")
    if rest := order[top:]:
        table.add_row(
            Text(f"{len(rest)} other{'s' * (len(rest) > 1)}", "italic"), "", f"{sum(float(means[i]) for i in rest):.4f}"
        )
    return table


def reason_lines(explanation: Explanation, row: int, column: int = -1) -> Text:
    """The reasons of a row, numbered, or why there are none; `column` is the position of the one that they are about."""
    found = explanation.reasons[row] if row < len(explanation.reasons) else ()
    if not found:
        return Text(f"  {no_reasons(explanation, row, column)}", "bright_black")
    return Text("\n").join(Text(f"  {number}. {text}") for number, text in enumerate(found, 1))


def _shown(
    explanation: Explanation, values: list[dict[str, str]], column: str, way: str, rows: int, top: int
) -> Iterator[RenderableType]:
    for row in range(min(explanation.rows, rows)):
        yield Text()
        if explanation.rows > 1:
            yield Text(f"row {row + 1}", "bold")
        position = explanation.output(column, row)
        yield chart(explanation, position, row, values[row] if row < len(values) else {}, top)
        if explanation.reasons:
            yield Text()
            yield Text.assemble(("reasons", "bold"), f": what {way} {explanation.outputs[position]}")
            yield reason_lines(explanation, row, position)
    if explanation.rows > rows:
        position = explanation.output(column)
        yield Text()
        yield Text(f"all {explanation.rows:,} rows: mean |attribution| to {explanation.outputs[position]}", "bold")
        yield ranking(explanation, position, top)


def _values(
    explanation: Explanation, request: ModelInferRequest, specs: Mapping[str, InputSpec]
) -> list[dict[str, str]]:
    """What the features were: as the explainer tells, else as far as the request does."""
    if explanation.values:
        return [dict(zip(explanation.features, row, strict=True)) for row in explanation.values]
    return known_values(request, specs)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"--html {file}: can't be written: {error.strerror}", status=2) from None
