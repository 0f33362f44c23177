"""An answer that is always the same, made ready for both forms of the protocol."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from infermesh.call import Call
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from services.gateway.fallback_config import ConstantConfig, OutputConfig

__all__ = ["ConstantAnswer"]

MAX_BYTES = 4 << 20  # of an answer: the rows are what the caller claims, and no backend has checked them

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

    The rows are the first dimension of the first input. A request that asks for other outputs, or claims more rows than would be
    answered in 4 MiB, is not answered.
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
        rows = request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 1
        if rows < 0 or any(each.by_row and rows * max(1, len(each.raw)) > MAX_BYTES for each in outputs):
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

    def __repr__(self) -> str:
        return "constant"


def _compiled(config: OutputConfig) -> _Output:
    field, code = _FIELDS[config.datatype]
    if config.datatype == "BYTES":
        values: list[Any] = [str(each).encode() for each in config.data]
        raw = b"".join(struct.pack("<I", len(each)) + each for each in values)
    else:
        values = [float(each) for each in config.data] if code in "fd" else list(config.data)
        raw = struct.pack(f"<{len(values)}{code}", *values)
    return _Output(config.name, config.datatype, tuple(config.shape), config.is_by_row, values, raw, field)
