"""`infermesh infer`: ask a model for a prediction, or for the reasons of one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from infermesh.cli.answer import answer_view, as_json, headline
from infermesh.cli.asking import DEFAULT_TARGET, Key, Target, Timeout, asked
from infermesh.cli.console import out
from infermesh.cli.explanation import Explanation, chart
from infermesh.cli.failure import Failure
from infermesh.cli.request import add_parameters, from_json, new_request, read_json
from infermesh.cli.values import InputSpec, arrays_of, input_specs, pairs
from infermesh.names import EXPLAINER_SUFFIX
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import read_inputs

__all__ = ["infer"]

Pairs = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME=VALUE", help="Inputs. Commas part the columns, semicolons the rows."),
]
Json = Annotated[str | None, typer.Option("--json", metavar="JSON", help="Inputs as JSON.")]
File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Inputs as a file of JSON; - reads stdin.")]
Explain = Annotated[bool, typer.Option("--explain", help="Ask <MODEL>-explainer, and draw what moved the prediction.")]
Version = Annotated[str, typer.Option("--version", metavar="V", help="A version; left out, the mesh chooses.")]
Params = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="A request parameter; repeatable.")
]
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
    _check_sources(values, json, file)
    with asked(target, key, timeout) as caller:
        metadata = caller.metadata(model, version)
        specs = input_specs(metadata)
        if values:
            request = new_request(model, arrays_of(pairs(values), specs), specs)
        elif json is None and file is None:
            raise _nothing_given(model, specs)
        else:
            request = from_json(model, read_json(json, file), specs)
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
    known = _known_values(request, specs)
    for row in range(explanation.rows):
        out.print()
        if explanation.rows > 1:
            out.print(Text(f"row {row + 1}", "bold"))
        position = explanation.output(output[0] if output else "", row)
        out.print(chart(explanation, position, row, known[row] if row < len(known) else {}))


def _check_sources(values: list[str] | None, json: str | None, file: Path | None) -> None:
    given = [name for name, value in (("name=value", values), ("--json", json), ("--file", file)) if value]
    if len(given) > 1:
        raise Failure(f"inputs are given twice, by {' and by '.join(given)}", hint="one of them is enough", status=2)


def _nothing_given(model: str, specs: Mapping[str, InputSpec]) -> Failure:
    takes = "; ".join(str(spec) + (f" ({_some(spec.columns)})" if spec.columns else "") for spec in specs.values())
    example = " ".join(f"{spec.name}={_example(spec)}" for spec in specs.values())
    return Failure(f"no inputs are given; {model} takes {takes}", hint=f"infermesh infer {model} {example}", status=2)


def _some(names: Sequence[str], limit: int = 6) -> str:
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _example(spec: InputSpec) -> str:
    width = 1
    for dimension in spec.shape[1:]:
        width *= max(1, dimension)
    return ",".join(["…"] * min(width, 4)) + (",…" if width > 4 else "")


def _known_values(request: ModelInferRequest, specs: Mapping[str, InputSpec]) -> list[dict[str, str]]:
    """What each row of the request says about features: by the name of the input, or of its columns."""
    rows: list[dict[str, str]] = []
    for name, array in read_inputs(request).items():
        if array.ndim == 0 or (name in specs and specs[name].datatype == "BF16"):
            continue
        flat = array.reshape(array.shape[0], -1) if array.size else array.reshape(array.shape[0], 0)
        columns = specs[name].columns if name in specs else ()
        for i, row in enumerate(flat.tolist()):
            while len(rows) <= i:
                rows.append({})
            if len(row) == 1:
                rows[i][name] = _text(row[0])
            elif len(row) == len(columns):
                rows[i].update({column: _text(element) for column, element in zip(columns, row, strict=True)})
    return rows


def _text(element: object) -> str:
    if isinstance(element, bytes):
        return element.decode("utf-8", "backslashreplace")
    return f"{element:.6g}" if isinstance(element, float) else str(element)
