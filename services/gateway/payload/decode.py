"""Tensors of OIP as JSON values. Runs in the process that writes payloads, where a loop over elements holds nobody up.

Numbers are numbers, exactly: an FP32 is written as the double that it equals. What JSON has no number for is a text: `NaN`,
`Infinity`, `-Infinity`. BYTES are texts where they are UTF-8, else `{"base64": …}`. No numpy: the gateway's image has none.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse

__all__ = ["Undecodable", "inputs_of", "outputs_of"]

Tensor = ModelInferRequest.InferInputTensor | ModelInferResponse.InferOutputTensor

# Datatype: its letter for `struct`, and its typed field.
_TYPES = {
    "BOOL": ("?", "bool_contents"),
    "INT8": ("b", "int_contents"),
    "INT16": ("h", "int_contents"),
    "INT32": ("i", "int_contents"),
    "INT64": ("q", "int64_contents"),
    "UINT8": ("B", "uint_contents"),
    "UINT16": ("H", "uint_contents"),
    "UINT32": ("I", "uint_contents"),
    "UINT64": ("Q", "uint64_contents"),
    "FP16": ("e", ""),
    "FP32": ("f", "fp32_contents"),
    "FP64": ("d", "fp64_contents"),
    "BF16": ("H", ""),
    "BYTES": ("", "bytes_contents"),
}
_LENGTH = struct.Struct("<I")


class Undecodable(ValueError):
    """The bytes of a tensor are not what its datatype says."""


def inputs_of(request: ModelInferRequest) -> list[dict[str, Any]]:
    """Name, datatype, shape and data of each input."""
    return _tensors(request.inputs, request.raw_input_contents)


def outputs_of(response: ModelInferResponse) -> list[dict[str, Any]]:
    """The same of the outputs."""
    return _tensors(response.outputs, response.raw_output_contents)


def _tensors(tensors: Sequence[Tensor], raw: Sequence[bytes]) -> list[dict[str, Any]]:
    """`data` is flat, row by row; where the bytes are not what they should be there is none, and `fault` instead."""
    found = []
    for at, tensor in enumerate(tensors):
        datatype = (
            tensor.datatype if tensor.datatype in _TYPES else "unknown"
        )  # else it could carry what is to be hidden
        each: dict[str, Any] = {"name": tensor.name, "datatype": datatype, "shape": list(tensor.shape)}
        try:
            each["data"] = _data(tensor, raw[at] if at < len(raw) else None)
        except Undecodable as error:
            each["fault"] = str(error)
        found.append(each)
    return found


def _data(tensor: Tensor, raw: bytes | None) -> list[Any]:
    datatype = tensor.datatype
    if datatype not in _TYPES:
        raise Undecodable("unknown datatype")
    letter, typed = _TYPES[datatype]
    if datatype == "BYTES":
        return [_text(each) for each in (tensor.contents.bytes_contents if raw is None else _elements(raw))]
    if raw is None:
        values: Iterable[Any] = getattr(tensor.contents, typed) if typed else ()
    else:
        size = struct.calcsize(letter)
        if len(raw) % size:
            raise Undecodable(f"{len(raw)} bytes are no whole number of {datatype}")
        values = struct.unpack(f"<{len(raw) // size}{letter}", raw)
    if datatype == "BF16":  # the upper half of an FP32
        values = [struct.unpack("<f", struct.pack("<I", each << 16))[0] for each in values]
    if datatype in ("FP16", "FP32", "FP64", "BF16"):
        return [each if math.isfinite(each) else _not_finite(each) for each in values]
    return list(values)


def _elements(raw: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(raw):
        if len(raw) - at < _LENGTH.size:
            raise Undecodable("a length is cut off")
        (size,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if size > len(raw) - at:
            raise Undecodable("an element is cut off")
        found.append(raw[at : at + size])
        at += size
    return found


def _text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
