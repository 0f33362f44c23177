"""A request and a constant answer, as the tests of fallbacks put them together."""

from __future__ import annotations

from typing import Any

from infermesh.protocol import open_inference_pb2 as pb
from services.gateway.constant_answer import ConstantAnswer
from services.gateway.fallback_config import ConstantConfig

__all__ = ["CONSTANT", "constant", "request"]

CONSTANT = {
    "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [-1], "data": [7]},
        {"name": "p", "datatype": "FP32", "shape": [-1, 2], "data": [0.25, 0.75]},
        {"name": "why", "datatype": "BYTES", "shape": [1], "data": ["default"]},
    ]
}


def request(rows: int = 1, *, raw: bool = False, outputs: tuple[str, ...] = (), **rest: Any) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="fraud", id="7", **rest)
    tensor = made.inputs.add(name="x", datatype="FP32", shape=[rows, 1])
    if raw:
        made.raw_input_contents.append(b"\0" * 4 * rows)
    else:
        tensor.contents.fp32_contents.extend([0.0] * rows)
    for name in outputs:
        made.outputs.add(name=name)
    return made


def constant(**config: Any) -> ConstantAnswer:
    return ConstantAnswer(ConstantConfig.model_validate(config or CONSTANT))
