"""ONNX Runtime's answer to rows, as the predictor would give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from infermesh.cli.model_import.needs import library
from infermesh.cli.model_import.original import NotConvertible
from infermesh.cli.model_import.rows import Rows
from infermesh.tensors import Array

__all__ = ["feed_of", "run", "session_of"]

_NUMBERS = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def session_of(model: bytes | Path) -> Any:
    """A session on the CPU. Raises NotConvertible when ONNX Runtime refuses the model."""
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions, with the same words
    content = model if isinstance(model, bytes) else str(model)
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class per cause, of no common base
        raise NotConvertible(f"ONNX Runtime does not load it: {' '.join(str(error).split())[:400]}") from None


def feed_of(rows: Rows, inputs: list[Any]) -> dict[str, Array]:
    """The rows as a session's inputs: one for each column, or one with all of them. Raises NotConvertible when they don't fit."""
    for node in inputs:
        if node.type not in _NUMBERS and node.type != "tensor(string)":
            raise NotConvertible(f"input {node.name} is a {node.type}: rows of a table can't fill it")
    by_name = dict(zip(rows.names, rows.columns, strict=True)) if rows.names else {}
    if len(inputs) == 1 and len(inputs[0].shape) == 2:
        return {inputs[0].name: _as(rows.matrix(), inputs[0])}
    if missing := [node.name for node in inputs if node.name not in by_name]:
        raise NotConvertible(f"the rows have no column for the input {missing[0]}")
    return {node.name: _as(by_name[node.name].reshape(-1, *[1] * (len(node.shape) - 1)), node) for node in inputs}


def run(content: bytes, rows: Rows) -> dict[str, Array]:
    """The outputs by name. Raises NotConvertible when the model does not load, or fails on the rows."""
    session = session_of(content)
    names = [node.name for node in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feed_of(rows, session.get_inputs())), strict=True))
    except NotConvertible:
        raise
    except Exception as error:
        raise NotConvertible(f"ONNX Runtime fails on the rows: {' '.join(str(error).split())[:400]}") from None


def _as(values: Array, node: Any) -> Array:
    if node.type == "tensor(string)":
        return values.astype(object)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what is past FP32 becomes inf, and the check tells
            return np.ascontiguousarray(values, _NUMBERS[node.type])
    except (ValueError, TypeError):
        raise NotConvertible(f"input {node.name} takes numbers, and the rows have texts") from None
