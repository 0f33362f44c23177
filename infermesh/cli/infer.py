"""`infermesh infer`: ask a model for a prediction, or for the reasons of one."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.text import Text

from infermesh.cli.answer import answer_view, as_json, headline
from infermesh.cli.asking import DEFAULT_TARGET, Key, Target, Timeout, asked
from infermesh.cli.console import out
from infermesh.cli.explanation import Explanation, chart
from infermesh.cli.inputs import File, Json, Pairs, Params, Version, check_sources, known_values, request_from
from infermesh.cli.request import add_parameters
from infermesh.cli.values import input_specs
from infermesh.names import EXPLAINER_SUFFIX

__all__ = ["infer"]

Explain = Annotated[bool, typer.Option("--explain", help="Ask <MODEL>-explainer, and draw what moved the prediction.")]
Outputs = Annotated[
    list[str] | None,
    typer.Option("--output", metavar="NAME", help="An output; repeatable. With --explain: the one that is explained."),
]
RawJson = Annotated[bool, typer.Option("--raw-json", help="Print the whole response as JSON, in OIP's REST form.")]


def infer(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to ask.")],
    values: Pairs = None,
    json: Json = None,
    file: File = None,
    explain: Explain = False,
    key: Key = "",
    target: Target = DEFAULT_TARGET,
    version: Version = "",
    param: Params = None,
    output: Outputs = None,
    raw_json: RawJson = False,
    timeout: Timeout = 30.0,
) -> None:
    """Ask a model; datatypes and shapes of name=value pairs come from the model's metadata.

    [bold]Examples[/]

      infermesh infer iris features=5.9,3.0,5.1,1.8

      infermesh infer iris 'features=5.9,3.0,5.1,1.8; 4.9,3.1,1.5,0.1'

      infermesh infer breast-cancer patient_id=p-0489 --explain

      infermesh infer fraud-detector --file samples/requests/fraud-detector.json

    JSON is OIP's REST form, {"inputs": [{"name", "datatype", "shape", "data"}]}, or {"name": value}.

    The exit status is 0 for an answer, 1 for a refusal by the server, 2 for a mistake on this line.
    """
    check_sources(values, json, file)
    with asked(target, key, timeout) as caller:
        metadata = caller.metadata(model, version)
        specs = input_specs(metadata)
        request = request_from(model, values, json, file, specs)
        request.model_version = version
        add_parameters(request, param or [])
        if explain:
            request.model_name = model + EXPLAINER_SUFFIX
        else:
            for name in output or []:
                request.outputs.add(name=name)
        started = time.perf_counter()
        response = caller.infer(request)
        seconds = time.perf_counter() - started
    if raw_json:
        print(as_json(response))
        return
    out.print(headline(response, seconds))
    if not explain:
        out.print(answer_view(response, metadata.properties))
        return
    explanation = Explanation.read(response)
    known = known_values(request, specs)
    for row in range(explanation.rows):
        out.print()
        if explanation.rows > 1:
            out.print(Text(f"row {row + 1}", "bold"))
        position = explanation.output(output[0] if output else "", row)
        out.print(chart(explanation, position, row, known[row] if row < len(known) else {}))
