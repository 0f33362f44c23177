"""What is asked in a comparison of predictors: a model file, one request, and how many of it are in flight.

`iris`: 100 trees, raw FP32 1×4: a call is nearly all overhead. `mlp`: a 128-64-10 perceptron, raw FP32 32×128 (16 kB): a batch
of rows, and a model so small that what is compared is not the matrix product, which is the same for all. `image`: raw FP32
1×3×224×224 (602 kB) into a mean over each channel, so that the cost is that of carrying the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.processes import ROOT
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import Array, add_inputs

__all__ = ["PAYLOADS", "Payload", "mean_of_channels", "perceptron", "scores_of_cards"]

SEED = 7
VERSION = "1"  # of each model in the folder that `write` makes


@dataclass(frozen=True, slots=True)
class Payload:
    """One comparison. `model` gives the model file's bytes."""

    name: str
    model: Callable[[], bytes]
    input: str
    array: Array
    in_flight: int

    @property
    def request(self) -> ModelInferRequest:
        request = ModelInferRequest(model_name=self.name, model_version=VERSION, id="1")
        add_inputs(request, {self.input: self.array})
        return request

    def write(self, root: Path) -> Path:
        """Make a model repository of this one model; returns the model's file."""
        file = root / self.name / VERSION / "model.onnx"
        file.parent.mkdir(parents=True)
        file.write_bytes(self.model())
        return file


def perceptron() -> bytes:
    """FP32 [rows, 128] → FP32 [rows, 10]: a hidden layer of 64 with ReLU, then a softmax."""
    draw = np.random.default_rng(SEED)
    nodes, constants, value = [], [], "x"
    sizes = (128, 64, 10)
    for layer, (wide, narrow) in enumerate(pairwise(sizes)):
        weights = draw.normal(0, wide**-0.5, (wide, narrow)).astype(np.float32)
        constants += [numpy_helper.from_array(weights, f"w{layer}")]
        constants += [numpy_helper.from_array(draw.normal(0, 0.1, narrow).astype(np.float32), f"b{layer}")]
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [f"h{layer}"]))
        value = f"a{layer}"
        last = layer == len(sizes) - 2
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"h{layer}"], ["y" if last else value]))
    return _model(nodes, ["rows", 128], ["rows", 10], constants)


def mean_of_channels() -> bytes:
    """FP32 [rows, 3, 224, 224] → FP32 [rows, 3]."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Flatten", ["m"], ["y"])]
    return _model(nodes, ["rows", 3, 224, 224], ["rows", 3], [])


def scores_of_cards(features: int) -> bytes:
    """FP32 amount [rows, 1] and card_features [rows, features] → FP32 probabilities [rows, 2]: a hidden layer of 32, ReLU."""
    draw = np.random.default_rng(SEED)
    wide, hidden, classes = features + 1, 32, 2
    constants = [
        numpy_helper.from_array(draw.normal(0, 0.01, shape).astype(np.float32), name)
        for name, shape in {"w0": (wide, hidden), "b0": (hidden,), "w1": (hidden, classes), "b1": (classes,)}.items()
    ]
    nodes = [
        helper.make_node("Concat", ["amount", "card_features"], ["x"], axis=1),
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w1", "b1"], ["z"]),
        helper.make_node("Softmax", ["z"], ["probabilities"]),
    ]
    inputs = {"amount": ["rows", 1], "card_features": ["rows", features]}
    return _graph(nodes, inputs, {"probabilities": ["rows", classes]}, constants)


def _model(nodes: list[Any], shape: list[Any], output: list[Any], constants: list[Any]) -> bytes:
    return _graph(nodes, {"x": shape}, {"y": output}, constants)


def _graph(
    nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], constants: list[Any]
) -> bytes:
    values = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in each.items()]
        for each in (inputs, outputs)
    )
    graph = helper.make_graph(nodes, "g", *values, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    return bytes(model.SerializeToString())


def _iris() -> bytes:
    return (ROOT / "samples" / "models" / "iris" / "2" / "model.onnx").read_bytes()


def _normal(*shape: int) -> Array:
    return np.random.default_rng(SEED).normal(size=shape).astype(np.float32)


PAYLOADS = {
    payload.name: payload
    for payload in (
        Payload("iris", _iris, "features", np.array([[5.1, 3.5, 1.4, 0.2]], np.float32), 64),
        Payload("mlp", perceptron, "x", _normal(32, 128), 64),
        # 64 of 602 kB would be 39 MB in the sockets' buffers, and a second or two of waiting for the slowest peer.
        Payload("image", mean_of_channels, "x", _normal(1, 3, 224, 224), 16),
    )
}
