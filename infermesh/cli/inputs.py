"""The inputs of a request as commands take them: pairs, JSON, a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from infermesh.cli.failure import Failure
from infermesh.cli.request import from_json, new_request, read_json
from infermesh.cli.values import InputSpec, arrays_of, pairs
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import read_inputs

__all__ = ["File", "Json", "Pairs", "Params", "Version", "check_sources", "known_values", "request_from"]

Pairs = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME=VALUE", help="Inputs. Commas part the columns, semicolons the rows."),
]
Json = Annotated[str | None, typer.Option("--json", metavar="JSON", help="Inputs as JSON.")]
File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Inputs as a file of JSON; - reads stdin.")]
Version = Annotated[str, typer.Option("--version", metavar="V", help="A version; left out, the mesh chooses.")]
Params = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="A request parameter; repeatable.")
]


def request_from(
    model: str, values: list[str] | None, json: str | None, file: Path | None, specs: Mapping[str, InputSpec]
) -> ModelInferRequest:
    """The request that was given. Raises Failure, for none at all with an example."""
    if values:
        return new_request(model, arrays_of(pairs(values), specs), specs)
    if json is None and file is None:
        raise _nothing_given(model, specs)
    return from_json(model, read_json(json, file), specs)


def check_sources(values: list[str] | None, json: str | None, file: Path | None) -> None:
    """Raise Failure for inputs that are given twice."""
    given = [name for name, value in (("name=value", values), ("--json", json), ("--file", file)) if value]
    if len(given) > 1:
        raise Failure(f"inputs are given twice, by {' and by '.join(given)}", hint="one of them is enough", status=2)


def _nothing_given(model: str, specs: Mapping[str, InputSpec]) -> Failure:
    takes = "; ".join(str(spec) + (f" ({_some(spec.columns)})" if spec.columns else "") for spec in specs.values())
    example = " ".join(f"{spec.name}={_example(spec)}" for spec in specs.values())
    return Failure(f"no inputs are given; {model} takes {takes}", hint=f"such as {example}", status=2)


def _some(names: Sequence[str], limit: int = 6) -> str:
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _example(spec: InputSpec) -> str:
    width = 1
    for dimension in spec.shape[1:]:
        width *= max(1, dimension)
    return ",".join(["…"] * min(width, 4)) + (",…" if width > 4 else "")


def known_values(request: ModelInferRequest, specs: Mapping[str, InputSpec]) -> list[dict[str, str]]:
    """What each row of the request says about features: by the name of the input, or of its columns, and where several have a
    name, by `input.column`, as explanations name them."""
    rows: list[dict[str, str]] = []
    times = Counter(name for spec in specs.values() for name in spec.columns or (spec.name,))
    for name, array in read_inputs(request).items():
        if array.ndim == 0 or (name in specs and specs[name].datatype == "BF16"):
            continue
        flat = array.reshape(array.shape[0], -1) if array.size else array.reshape(array.shape[0], 0)
        columns = specs[name].columns if name in specs else ()
        for i, row in enumerate(flat.tolist()):
            while len(rows) <= i:
                rows.append({})
            labels = columns if len(columns) == len(row) else (name,) * (len(row) == 1)
            named = (label if times[label] < 2 else f"{name}.{label}" for label in labels)
            if labels:
                rows[i].update({label: _text(element) for label, element in zip(named, row, strict=True)})
    return rows


def _text(element: object) -> str:
    if isinstance(element, bytes):
        return element.decode("utf-8", "backslashreplace")
    return f"{element:.6g}" if isinstance(element, float) else str(element)
