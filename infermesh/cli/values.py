"""Tensors from what a person types: `name=value` pairs, read by the model's metadata."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infermesh.cli.failure import Failure
from infermesh.protocol.open_inference_pb2 import ModelMetadataResponse
from infermesh.tensors import DATATYPES, Array

__all__ = ["COLUMNS", "InputSpec", "array_of", "arrays_of", "bfloat16", "input_specs", "pairs"]

COLUMNS = "infermesh.columns."  # + input: the names of its columns, a JSON list among the model's properties

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


@dataclass(frozen=True)
class InputSpec:
    """An input as the metadata has it; -1 in `shape` is a dimension of any size. `columns` may be empty."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}"


def input_specs(metadata: ModelMetadataResponse) -> dict[str, InputSpec]:
    """The model's inputs by name, with the names of their columns where the model says them."""
    specs: dict[str, InputSpec] = {}
    for tensor in metadata.inputs:
        columns = names_in(metadata.properties.get(COLUMNS + tensor.name, ""))
        specs[tensor.name] = InputSpec(tensor.name, tensor.datatype, tuple(tensor.shape), columns)
    return specs


def names_in(text: str) -> tuple[str, ...]:
    """The names in a JSON list; none when it is no list of names: a property is the model maker's free text."""
    try:
        names = json.loads(text) if text else []
    except ValueError:
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def pairs(words: Sequence[str]) -> dict[str, list[str]]:
    """`name=value` words as values by name, in order; a name that is repeated has several."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise Failure(f"{word!r}: expected name=value", hint="quote a value that has spaces: 'name=a b'", status=2)
        found.setdefault(name, []).append(value)
    return found


def arrays_of(given: Mapping[str, Sequence[str]], specs: Mapping[str, InputSpec]) -> dict[str, Array]:
    """The arrays of all inputs that are given, by the name of an input or of each of its columns.

    Which inputs must be given is for the model to say. Raises Failure for a name that the model does not have, or that several
    of its columns have.
    """
    column_of = {column: spec for spec in specs.values() for column in spec.columns if column not in specs}
    times = Counter(column for spec in specs.values() for column in spec.columns)
    texts: dict[str, Sequence[str]] = {}
    by_column: dict[str, dict[str, Sequence[str]]] = {}
    for name, values in given.items():
        if name in specs:
            texts[name] = values
        elif times[name] > 1:
            having = [spec.name for spec in specs.values() if name in spec.columns]
            raise Failure(
                f"input {name!r}: {times[name]} columns have that name, of {' and of '.join(having)}",
                hint=f"give the input whole: {having[0]}=…,…",
                status=2,
            )
        elif name in column_of:
            by_column.setdefault(column_of[name].name, {})[name] = values
        else:
            raise Failure(f"input {name!r}: no such input; the model takes {_listed(specs)}", status=2)
    for name, columns in by_column.items():
        if name in texts:
            raise Failure(f"input {name!r}: given whole and by its column {next(iter(columns))!r}", status=2)
        texts[name] = _joined(specs[name], columns)
    return {name: array_of(specs[name], values) for name, values in texts.items()}


def array_of(spec: InputSpec, values: Sequence[str]) -> Array:
    """The array of one input from texts. `;` (or another text) ends a row, `,` a column; text inputs of one column keep commas.

    Raises Failure, with the name and the shape that was expected.
    """
    if not spec.shape:
        return _array(spec, [";".join(values)], ())
    rest = spec.shape[1:]
    if len(spec.shape) == 1:  # every element is a row
        elements = [e for row in _rows(values) for e in ([row] if spec.datatype == "BYTES" else row.split(","))]
        return _array(spec, elements, (len(elements),))
    if sum(d < 0 for d in rest) > 1:
        raise Failure(f"input {spec}: can't be typed in this form", hint="use --json or --file", status=2)
    known = math.prod(d for d in rest if d >= 0)
    rows: list[list[str]] = []
    for text in _rows(values):
        row = [text] if spec.datatype == "BYTES" and known == 1 and -1 not in rest else text.split(",")
        rows.append(row)
    free = len(rows[0]) // known if -1 in rest and known else 1
    for number, row in enumerate(rows, 1):
        if len(row) != known * free:
            named = f" ({', '.join(spec.columns[:4])}{', …' if len(spec.columns) > 4 else ''})" if spec.columns else ""
            raise Failure(
                f"input {spec}: row {number}: expected {known * free} value{'s' * (known * free != 1)}{named}, got {len(row)}",
                hint="commas part the columns, semicolons the rows",
                status=2,
            )
    shape = (len(rows), *(free if d < 0 else d for d in rest))
    return _array(spec, [element for row in rows for element in row], shape)


def bfloat16(values: Array) -> Array:
    """The bits of the nearest BF16 for each number, as uint16: numpy has no such type. NaN stays NaN."""
    wide = np.ascontiguousarray(values, np.float32)
    bits = wide.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(wide), np.uint32(0x7FC0), rounded).astype("<u2")


def _rows(values: Sequence[str]) -> list[str]:
    return [row for value in values for row in value.split(";")]


def _joined(spec: InputSpec, columns: Mapping[str, Sequence[str]]) -> list[str]:
    """The rows of an input whose columns were given one by one."""
    missing = [column for column in spec.columns if column not in columns]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise Failure(
            f"input {spec}: column{'s' * (len(missing) != 1)} {', '.join(missing[:3])}{more} missing",
            hint=f"give all {len(spec.columns)} columns, or {spec.name}=…,…",
            status=2,
        )
    by_column = [_rows(columns[column]) for column in spec.columns]
    if len({len(rows) for rows in by_column}) != 1:
        raise Failure(f"input {spec}: expected as many rows for each column", status=2)
    return [",".join(row) for row in zip(*by_column, strict=True)]


def _array(spec: InputSpec, elements: Sequence[str], shape: tuple[int, ...]) -> Array:
    datatype = DATATYPES.get(spec.datatype)
    if datatype is None:
        raise Failure(f"input {spec}: the server names a datatype that the protocol does not have")
    if datatype.name == "BYTES":
        texts = np.empty(len(elements), np.object_)
        texts[:] = [element.encode("utf-8", "surrogateescape") for element in elements]
        return texts.reshape(shape)
    try:
        numbers = [_number(datatype.name, element.strip()) for element in elements]
        if datatype.name == "BF16":
            return bfloat16(np.array(numbers, np.float32)).reshape(shape)
        return np.array(numbers, datatype.dtype).reshape(shape)
    except (ValueError, OverflowError) as error:
        raise Failure(f"input {spec}: expected {datatype.name}: {error}", status=2) from None


def _number(datatype: str, text: str) -> float | int | bool:
    if datatype == "BOOL":
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise ValueError(f"true or false, got {text!r}")
    return float(text) if datatype in ("FP16", "BF16", "FP32", "FP64") else int(text, 0)


def _listed(specs: Mapping[str, InputSpec]) -> str:
    return ", ".join(str(spec) for spec in specs.values()) or "none"
