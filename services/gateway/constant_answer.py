"""An answer that is always the same, made ready for both forms of the protocol."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import Any

from infermesh.call import Call
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from services.gateway.fallback_config import ConstantConfig, OutputConfig

__all__ = ["ConstantAnswer"]

MAX_BYTES = 4 << 20  # of an answer, all outputs together
MAX_TYPED = 1 << 18  # elements of a typed answer, all outputs together: each is boxed, and the event loop waits for it

_BYTES = {"BOOL": 1, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8}
_BYTES |= {"FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8, "BYTES": 4}  # of BYTES at least so many
_FIELDS = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
    "BYTES": ("bytes_contents", ""),
}


@dataclass(frozen=True)
class _Output:
    name: str
    datatype: str
    shape: tuple[int, ...]
    by_row: bool
    values: list[Any]
    raw: bytes
    field: str


class ConstantAnswer:
    """Answers every request with the same outputs, typed or raw as the request is; outputs by row once for each row.

    The rows are the first dimension of the first input, if that has the elements which its shape claims: no backend has checked
    it, and a few bytes must not ask for megabytes. A request that asks for other outputs, or whose answer would be larger than
    4 MiB or have more than 262,144 typed elements, is not answered.
    """

    name = "constant"

    def __init__(self, config: ConstantConfig) -> None:
        self._outputs = {each.name: _compiled(each) for each in config.outputs}

    async def answer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse | None:
        outputs = list(self._outputs.values())
        if request.outputs:
            asked = dict.fromkeys(each.name for each in request.outputs)
            if not all(name in self._outputs for name in asked):
                return None
            outputs = [self._outputs[name] for name in asked]
        rows = _rows(request)
        if rows is None or self._is_too_large(outputs, rows, is_raw=bool(request.raw_input_contents)):
            return None
        response = ModelInferResponse(model_name=request.model_name, id=request.id)
        for each in outputs:
            times = rows if each.by_row else 1
            tensor = response.outputs.add(name=each.name, datatype=each.datatype)
            tensor.shape.extend((rows, *each.shape[1:]) if each.by_row else each.shape)
            if request.raw_input_contents:
                response.raw_output_contents.append(each.raw * times)
            else:
                getattr(tensor.contents, each.field).extend(each.values * times)
        return response

    def _is_too_large(self, outputs: list[_Output], rows: int, *, is_raw: bool) -> bool:
        times = [(each, rows if each.by_row else 1) for each in outputs]
        if sum(len(each.raw) * many for each, many in times) > MAX_BYTES:
            return True
        return not is_raw and sum(len(each.values) * many for each, many in times) > MAX_TYPED

    def __repr__(self) -> str:
        return "constant"


def _rows(request: ModelInferRequest) -> int | None:
    """The rows of the first input, one where it has no dimensions; None when it has not the elements that it claims."""
    if not request.inputs or not request.inputs[0].shape:
        return 1
    tensor = request.inputs[0]
    rows, elements = tensor.shape[0], prod(tensor.shape)
    if min(tensor.shape) < 0 or rows > elements:  # rows of nothing cost the caller nothing
        return None
    size = _BYTES.get(tensor.datatype, 0)
    if not request.raw_input_contents:
        has = sum(len(values) for _, values in tensor.contents.ListFields())
        return rows if has == elements else None
    held = len(request.raw_input_contents[0])
    fits = held >= elements * size if tensor.datatype == "BYTES" else held == elements * size
    return rows if size and fits else None


def _compiled(config: OutputConfig) -> _Output:
    field, code = _FIELDS[config.datatype]
    if config.datatype == "BYTES":
        values: list[Any] = [str(each).encode() for each in config.data]
        raw = b"".join(struct.pack("<I", len(each)) + each for each in values)
    else:
        values = [float(each) for each in config.data] if code in "fd" else list(config.data)
        raw = struct.pack(f"<{len(values)}{code}", *values)
    return _Output(config.name, config.datatype, tuple(config.shape), config.is_by_row, values, raw, field)
