"""A frame as a line of the payload log."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import DecodeError

from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from services.gateway.payload.decode import inputs_of, outputs_of
from services.gateway.payload.redact import Redaction

__all__ = ["SCHEMA", "Undecodable", "line_of"]

SCHEMA = 1

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


class Undecodable(ValueError):
    """A frame that is no call."""


def line_of(parts: tuple[bytes, ...], redaction: Redaction, max_bytes: int) -> bytes:
    """The line, with its newline; one that would be longer than `max_bytes` has shapes and no data."""
    head = json.loads(parts[0])
    if len(parts) == 3:
        try:
            inputs = inputs_of(ModelInferRequest.FromString(parts[1]))
            outputs = outputs_of(ModelInferResponse.FromString(parts[2]))
        except DecodeError as error:
            raise Undecodable(str(error)) from None
        redaction.hide(inputs)
        redaction.hide(outputs)
    else:
        inputs, outputs = head["inputs"], head["outputs"]
    line = _line(head, inputs, outputs)
    if len(line) > max_bytes:
        line = _line(head, _without_data(inputs), _without_data(outputs))
    return line


def _line(head: dict[str, Any], inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> bytes:
    request_bytes, response_bytes = head["bytes"]
    fields = {
        "schema": SCHEMA,
        "time": datetime.fromtimestamp(head["time"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "request_id": head["request_id"],
        "model": head["model"],
        "route": head["route"],
        "answered": head["answered"],
        "version": head["version"],
        "variant": head["variant"],
        "request": {"bytes": request_bytes, "inputs": inputs},
        "response": {"bytes": response_bytes, "outputs": outputs},
    }
    return _encode(fields).encode("ascii") + b"\n"


def _without_data(tensors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: tensor[key] for key in ("name", "datatype", "shape")} for tensor in tensors]
