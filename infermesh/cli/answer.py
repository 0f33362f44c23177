"""How an answer is shown: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from infermesh.cli.bars import share_bar
from infermesh.cli.values import names_in
from infermesh.parameters import FALLBACK, FEATURES, MODEL, VARIANT
from infermesh.protocol.open_inference_pb2 import InferParameter, ModelInferResponse
from infermesh.tensors import Array, read_outputs

__all__ = ["CLASSES", "answer_view", "as_json", "headline"]

CLASSES = "infermesh.classes"  # the names of a classifier's classes, a JSON list among the model's properties
LABEL = "label"

MAX_ROWS = 50
MAX_COLUMNS = 8  # of one output; a wider one is shown by its shape and first values
MAX_CHARACTERS = 32


def headline(response: ModelInferResponse, seconds: float) -> Text:
    """Who answered, and how fast: model, version, variant, latency."""
    parameters = response.parameters
    line = Text.assemble((response.model_name, "bold"), f"  version {response.model_version or '?'}")
    if MODEL in parameters and parameters[MODEL].string_param not in ("", response.model_name):
        line.append(f"  of {parameters[MODEL].string_param}")
    if VARIANT in parameters and parameters[VARIANT].string_param:
        line.append(f"  variant {parameters[VARIANT].string_param}")
    if FALLBACK in parameters:
        line.append(f"  fallback: {_plain(parameters[FALLBACK])}", "yellow")
    if FEATURES in parameters and parameters[FEATURES].string_param != "present":
        line.append(f"  features {parameters[FEATURES].string_param}", "yellow")
    line.append(f"  {seconds * 1000:.1f} ms", "cyan")
    return line


def answer_view(response: ModelInferResponse, properties: Mapping[str, str]) -> RenderableType:
    """The outputs as a table: a line for each row, if the outputs have rows in common, else a line for each output.

    Classes are named, and the likeliest is drawn as a bar, where the model's metadata has `infermesh.classes`.
    """
    outputs = {name: _without_bits(response, name, array) for name, array in read_outputs(response).items()}
    if not outputs:
        return Text("no outputs", "bright_black")
    lengths = {array.shape[0] if array.ndim else -1 for array in outputs.values()}
    if len(lengths) == 1 and -1 not in lengths and all(_columns(a) <= MAX_COLUMNS for a in outputs.values()):
        return _by_row(outputs, names_in(properties.get(CLASSES, "")))
    return _by_output(response, outputs)


def as_json(response: ModelInferResponse) -> str:
    """The response in OIP's REST form. Texts that are not UTF-8 are escaped; BF16 becomes numbers."""
    outputs = []
    for tensor, (name, array) in zip(response.outputs, read_outputs(response).items(), strict=True):
        data = [_scalar(element) for element in _without_bits(response, name, array).ravel().tolist()]
        outputs.append({"name": name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": data})
    value: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        value["id"] = response.id
    if response.parameters:
        value["parameters"] = {key: _plain(parameter) for key, parameter in sorted(response.parameters.items())}
    lines = [f"  {json.dumps(key)}: {json.dumps(part, ensure_ascii=False)}" for key, part in value.items()]
    tensors = ",\n".join(f"    {json.dumps(tensor, ensure_ascii=False)}" for tensor in outputs)
    return (
        "{\n" + ",\n".join([*lines, f'  "outputs": [\n{tensors}\n  ]']) + "\n}"
    )  # a tensor a line, not an element a line


def _by_row(outputs: Mapping[str, Array], classes: tuple[str, ...]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    rows = next(iter(outputs.values())).shape[0]
    if rows > 1:
        table.add_column("row", justify="right", style="bright_black")
    cells: list[list[RenderableType]] = [[str(i + 1)] if rows > 1 else [] for i in range(min(rows, MAX_ROWS))]
    for name, array in outputs.items():
        flat = array.reshape(rows, -1) if array.size else array.reshape(rows, 0)
        width = flat.shape[1]
        named = width == len(classes) > 1 and array.dtype.kind == "f"
        heads = list(classes) if named else [name] if width == 1 else [f"{name}[{j}]" for j in range(width)]
        labels = name == LABEL and array.dtype.kind in "iu" and width == 1 and bool(classes)
        for head in heads:
            table.add_column(Text(head), justify="left" if labels or array.dtype.kind == "O" else "right")
        if named:
            table.add_column("")
        for i, line in enumerate(cells):
            row = flat[i].tolist()
            best = max(range(width), key=row.__getitem__) if named else -1
            for j, element in enumerate(row):
                text = f"{element:.4f}" if named else _shown(element)
                if labels and 0 <= element < len(classes):
                    text = classes[element]
                line.append(Text(text, "bold green" if j == best or labels else ""))
            if named:
                line.append(share_bar(row[best], 24, "green"))
    for line in cells:
        table.add_row(*line)
    if rows > MAX_ROWS:
        return Group(table, Text(f"… and {rows - MAX_ROWS} more rows; --raw-json has them all", "bright_black"))
    return table


def _by_output(response: ModelInferResponse, outputs: Mapping[str, Array]) -> RenderableType:
    table = Table("output", "datatype", "shape", "first values", box=box.SIMPLE_HEAD, pad_edge=False)
    for tensor in response.outputs:
        elements = outputs[tensor.name].ravel()
        first = ", ".join(_shown(element) for element in elements[:MAX_COLUMNS].tolist())
        more = ", …" if elements.size > MAX_COLUMNS else ""
        table.add_row(tensor.name, tensor.datatype, str(list(tensor.shape)), Text(first + more))
    return table


def _columns(array: Array) -> int:
    return int(array.size) // max(1, int(array.shape[0]))


def _without_bits(response: ModelInferResponse, name: str, array: Array) -> Array:
    """BF16 as numbers: its bits are the upper half of an FP32's."""
    if any(tensor.name == name and tensor.datatype == "BF16" for tensor in response.outputs):
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _shown(element: Any) -> str:
    if isinstance(element, float):
        return f"{element:.4g}"
    text = str(_scalar(element))
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def _scalar(element: Any) -> Any:
    return element.decode("utf-8", "backslashreplace") if isinstance(element, bytes) else element


def _plain(parameter: InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None
