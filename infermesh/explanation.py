"""The answer of an explainer in the form that shap's plots take: `shap.Explanation(**to_shap(response))`."""

from __future__ import annotations

from typing import Any

import numpy as np

from infermesh.errors import InvalidRequest, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import Array, read_outputs

__all__ = ["to_shap"]

NEEDED = ("attributions", "base_values", "feature_names", "output_names")


def to_shap(response: ModelInferResponse, data: Array | None = None, output: str | int | None = None) -> dict[str, Any]:
    """Arguments of `shap.Explanation`.

    `data` are the rows that were explained, [rows, features] of numbers or texts, which some plots show and colour by. `output`
    is a column of the explained output, by name or number: most plots take one; without it all are there, the last dimension, or
    the only one that there is without that dimension. Raises InvalidRequest for a response that is no explanation, an output that
    it does not have, and data of another shape.
    """
    found = read_outputs(response)
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise InvalidRequest(
            f"model {quoted(response.model_name)}: expected an explanation with the outputs {', '.join(NEEDED)}, "
            f"{missing[0]} is not there"
        )
    features, outputs = _texts(found["feature_names"]), _texts(found["output_names"])
    values, base, error = found["attributions"], found["base_values"], found.get("std_error")
    if data is not None and np.shape(data) != values.shape[:2]:
        raise InvalidRequest(
            f"data: expected {list(values.shape[:2])}, a column for each feature, got {list(np.shape(data))}"
        )
    column = _column(outputs, output)
    arguments: dict[str, Any] = {
        "values": values if column is None else values[:, :, column],
        "base_values": base if column is None else base[:, column],
        "data": data,
        "feature_names": features,
        "output_names": outputs if column is None else outputs[column],
    }
    if error is not None and np.isfinite(error).all() and error.any():
        arguments["error_std"] = error if column is None else error[:, :, column]
    return arguments


def _column(outputs: list[str], output: str | int | None) -> int | None:
    if output is None:
        return 0 if len(outputs) == 1 else None
    if isinstance(output, str) and output in outputs:
        return outputs.index(output)
    if isinstance(output, int) and 0 <= output < len(outputs):
        return output
    shown = quoted(output) if isinstance(output, str) else output
    raise InvalidRequest(f"output: expected one of {', '.join(outputs)[:300]}, or its number, got {shown}")


def _texts(array: Array) -> list[str]:
    return [element.decode("utf-8", "backslashreplace") for element in array.ravel().tolist()]
