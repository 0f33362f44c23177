"""A ModelInferRequest from what the command line was given: pairs, JSON, parameters."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infermesh.cli.failure import Failure
from infermesh.cli.values import InputSpec, bfloat16
from infermesh.protocol.open_inference_pb2 import InferParameter, ModelInferRequest
from infermesh.tensors import DATATYPES, Array, add_inputs

__all__ = ["add_parameters", "from_json", "new_request", "read_json"]


def new_request(
    model: str,
    arrays: Mapping[str, Array],
    specs: Mapping[str, InputSpec],
    *,
    version: str = "",
    outputs: Sequence[str] = (),
) -> ModelInferRequest:
    """The request with these inputs, in raw form."""
    request = ModelInferRequest(model_name=model, model_version=version)
    add_inputs(request, arrays, datatypes={name: specs[name].datatype for name in arrays})
    for output in outputs:
        request.outputs.add(name=output)
    return request


def read_json(text: str | None, file: Path | None) -> Any:
    """The value of `--json`, or of `--file` (`-`: standard input)."""
    source = "--json"
    if file is not None:
        source = str(file)
        try:
            text = sys.stdin.read() if source == "-" else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"{source}: can't be read: {getattr(error, 'strerror', None) or error}", status=2) from None
    try:
        return json.loads(text or "")
    except ValueError as error:
        raise Failure(f"{source}: no valid JSON: {error}", status=2) from None


def from_json(model: str, value: Any, specs: Mapping[str, InputSpec]) -> ModelInferRequest:
    """A request from JSON: OIP's REST form (`{"inputs": [{name, datatype, shape, data}]}`) or `{"name": value}`.

    In the short form datatypes come from `specs`, and a value has the input's shape, or that of one row. Raises Failure.
    """
    if not isinstance(value, dict):
        raise Failure(
            f'the JSON: expected {{"inputs": […]}} or {{"name": value}}, got {type(value).__name__}', status=2
        )
    request = ModelInferRequest(model_name=model)
    if isinstance(value.get("inputs"), list) and "inputs" not in specs:
        _add_oip(request, value)
    else:
        for name, data in value.items():
            if name not in specs:
                known = ", ".join(str(spec) for spec in specs.values())
                raise Failure(f"input {name!r}: no such input; the model takes {known}", status=2)
            array = _array(data, specs[name].datatype, f"input {specs[name]}")
            if array.ndim == len(specs[name].shape) - 1:
                array = array[np.newaxis]
            add_inputs(request, {name: array}, datatypes={name: specs[name].datatype})
    return request


def add_parameters(request: ModelInferRequest, words: Sequence[str]) -> None:
    """`name=value` words as request parameters: true and false, whole numbers, numbers, else text. Raises Failure."""
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name:
            raise Failure(f"--param {word!r}: expected name=value", status=2)
        request.parameters[name].CopyFrom(_parameter(_typed(text), f"--param {name}"))


def _add_oip(request: ModelInferRequest, value: Mapping[str, Any]) -> None:
    unknown = sorted(value.keys() - {"inputs", "outputs", "id", "parameters", "model_name", "model_version"})
    if unknown:
        raise Failure(f"the JSON: {unknown[0]!r} is no part of a request", status=2)
    request.id = str(value.get("id", ""))
    for key, parameter in (value.get("parameters") or {}).items():
        request.parameters[key].CopyFrom(_parameter(parameter, f"parameter {key!r}"))
    for output in value.get("outputs") or []:
        request.outputs.add(name=output["name"] if isinstance(output, dict) else str(output))
    for position, tensor in enumerate(value["inputs"]):
        try:
            name, datatype = str(tensor["name"]), str(tensor["datatype"])
            shape, data = [int(d) for d in tensor["shape"]], tensor["data"]
        except (TypeError, KeyError, ValueError):
            raise Failure(f"the JSON: inputs[{position}]: expected name, datatype, shape and data", status=2) from None
        if datatype not in DATATYPES:
            raise Failure(f"input {name!r}: expected a datatype of {', '.join(DATATYPES)}, got {datatype!r}", status=2)
        array = _array(data, datatype, f"input {name!r}").reshape(-1)
        try:
            array = array.reshape(shape)
        except ValueError:
            raise Failure(f"input {name!r}: {array.size} values do not fill the shape {shape}", status=2) from None
        add_inputs(request, {name: array}, datatypes={name: datatype})
        for key, parameter in (tensor.get("parameters") or {}).items():
            request.inputs[-1].parameters[key].CopyFrom(_parameter(parameter, f"parameter {key!r} of {name!r}"))


def _array(data: Any, datatype: str, where: str) -> Array:
    kind = DATATYPES[datatype]
    try:
        if datatype == "BYTES":
            shape = np.shape(np.array(data, np.object_))
            texts = np.empty(int(np.prod(shape)), np.object_)
            texts[:] = [_text(element) for element in np.array(data, np.object_).reshape(-1)]
            return texts.reshape(shape)
        if datatype == "BF16":
            return bfloat16(np.array(data, np.float32))
        numbers = np.array(data)
        if numbers.dtype.kind not in "biuf" and numbers.size:
            raise ValueError(f"got {numbers.reshape(-1).tolist()[0]!r}")
        if datatype != "BOOL" and kind.dtype.kind in "iu" and numbers.dtype.kind == "f" and numbers.size:
            raise ValueError("got a number with a fraction")
        return np.array(data, kind.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise Failure(f"{where}: expected {datatype} values: {error}", status=2) from None


def _text(element: Any) -> bytes:
    if not isinstance(element, str):
        raise ValueError(f"texts, got {element!r}")
    return element.encode()


def _typed(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _parameter(value: Any, where: str) -> InferParameter:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return InferParameter(int64_param=value)
        if 0 <= value < 2**64:
            return InferParameter(uint64_param=value)
    if isinstance(value, float):
        return InferParameter(double_param=value)
    if isinstance(value, str):
        return InferParameter(string_param=value)
    raise Failure(f"{where}: expected a text, a number of 64 bits, true or false", status=2)
