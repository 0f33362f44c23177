"""Reads a graph backwards, from an output to the model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto

from infermesh.errors import quoted
from services.explainer.graph.aftermath import AFTERMATH
from services.explainer.graph.attributes import Attributes, constant, described
from services.explainer.graph.models import LINEAR, PRODUCTS, TREES, read_model, read_product
from services.explainer.graph.preparation import PREPARATIONS
from services.explainer.graph.refusal import NotReadable
from services.explainer.graph.score import Score
from services.explainer.graph.table import Computation, Table

__all__ = ["Reader"]

MOST_BYTES = 2**31 - 1  # protobuf's own limit
MOST_DEPTH = 200  # nodes one after the other; also what ends a graph with a cycle
MOST_COLUMNS = 2**20
DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
FLOATING = (TensorProto.FLOAT, TensorProto.DOUBLE)
DTYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT64: np.int64,
    TensorProto.INT32: np.int32,
    TensorProto.BOOL: np.bool_,
    TensorProto.STRING: np.object_,
}


class Reader:
    """Of one graph. `columns` are those of its inputs, in order: the input's name and the place in its rows."""

    def __init__(self, graph: Any) -> None:
        self.columns: list[tuple[str, int]] = []
        self._graph = graph
        self._maker = {name: node for node in graph.node for name in node.output if name}
        self._held = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs = {value.name: value for value in graph.input if value.name not in self._held}
        self._tables: dict[str, Table] = {}
        self._scores: dict[str, Score | None] = {}

    @classmethod
    def of(cls, content: bytes) -> Reader:
        """Raises NotReadable for what is no ONNX file."""
        if len(content) > MOST_BYTES:
            raise NotReadable(f"the file is larger than {MOST_BYTES} bytes")
        try:
            model = onnx.ModelProto.FromString(content)
        except (DecodeError, ValueError):
            raise NotReadable("the file is no ONNX model: it can't be parsed") from None
        if not model.graph.node:
            raise NotReadable("the file is no ONNX model: it has no nodes")
        return cls(model.graph)

    def output(self, name: str = "") -> tuple[str, Score]:
        """The output's name and what it is of. Raises NotReadable: why not the one named, or the first floating one."""
        outputs = {value.name: value for value in self._graph.output}
        if name and name not in outputs:
            raise NotReadable(f"output {quoted(name)}: the graph has none of that name")
        reason: NotReadable | None = None
        for each in [name] if name else outputs:
            if outputs[each].type.WhichOneof("value") == "tensor_type":
                kind = outputs[each].type.tensor_type.elem_type
                if kind and kind not in FLOATING:
                    reason = reason or NotReadable(f"output {quoted(each)}: it is no floating one")
                    continue
            try:
                score = self._score(each, 0)
            except NotReadable as error:
                reason = error if reason is None or "no floating one" in reason.reason else reason
                continue
            if score is not None:
                return each, score
            reason = reason or NotReadable(f"output {quoted(each)}: it is not computed by trees or a linear model")
        raise reason or NotReadable("the graph has no outputs")

    def _score(self, name: str, depth: int) -> Score | None:
        """What a value is of a model's scores; None when no model is before it."""
        if name in self._scores:
            return self._scores[name]
        node = self._maker.get(name)
        if node is None:
            return None
        self._check(node, depth)
        if node.op_type in TREES + LINEAR:
            # A classifier's first output is the label.
            if node.op_type.endswith("Classifier") and (len(node.output) < 2 or node.output[1] != name):
                raise NotReadable(f"{described(node)}: its labels have no amount that features could add up to")
            score: Score | None = read_model(node, self._table(node.input[0], depth + 1))
        elif node.op_type in PRODUCTS:
            score = read_product(node, self._table(node.input[0], depth + 1), self._constants(node))
        elif not any(self._score(each, depth + 1) for each in node.input if each):
            score = None
        elif node.op_type in AFTERMATH:
            scores = [self._score(each, depth + 1) for each in node.input]
            score = AFTERMATH[node.op_type](node, scores, self._constants(node))
        else:
            raise NotReadable(f"{described(node)}: what it does to the model's scores is not supported")
        self._scores[name] = score
        return score

    def _table(self, name: str, depth: int) -> Table:
        """A value that holds columns of the inputs."""
        if name in self._tables:
            return self._tables[name]
        node = self._maker.get(name)
        if node is None:
            table = self._input(name)
        else:
            self._check(node, depth)
            prepare = PREPARATIONS.get(node.op_type)
            if prepare is None:
                raise NotReadable(f"{described(node)}: it mixes columns, or is not supported, before the model")
            constants = self._constants(node)
            tables = [
                None if value is not None or not each else self._table(each, depth + 1)
                for each, value in zip(node.input, constants, strict=True)
            ]
            table = prepare(node, tables, constants)
        self._tables[name] = table
        return table

    def _input(self, name: str) -> Table:
        value = self._inputs.get(name)
        if value is None or value.type.WhichOneof("value") != "tensor_type":
            raise NotReadable(f"value {quoted(name)}: expected a tensor that is an input or comes from a node")
        kind = value.type.tensor_type
        shape = [each.dim_value if each.HasField("dim_value") else -1 for each in kind.shape.dim]
        if kind.elem_type not in DTYPES:
            raise NotReadable(f"input {quoted(name)}: its datatype is not supported")
        if len(shape) not in (1, 2) or shape[1:] == [-1]:
            raise NotReadable(f"input {quoted(name)}: expected rows of a fixed number of columns, got shape {shape}")
        if shape[1:] > [MOST_COLUMNS] or len(self.columns) + (width := max(1, *shape[1:], 1)) > MOST_COLUMNS:
            raise NotReadable(f"input {quoted(name)}: expected at most {MOST_COLUMNS} columns")
        first = len(self.columns)
        self.columns += [(name, at) for at in range(width)]
        sources = np.arange(first, first + width).reshape(1, *shape[1:])
        dtype = DTYPES[kind.elem_type]

        def compute(computation: Computation) -> Any:
            return np.asarray(computation.inputs[name]).astype(dtype, copy=False)

        return Table(sources, compute, kind.elem_type == TensorProto.STRING, dtype)

    def _constants(self, node: Any) -> Sequence[NDArray[Any] | None]:
        return [self._constant(name) for name in node.input]

    def _constant(self, name: str) -> NDArray[Any] | None:
        if name in self._held:
            return constant(self._held[name], f"initializer {quoted(name)}")
        node = self._maker.get(name)
        if node is None or node.op_type != "Constant":
            return None
        attributes = Attributes(node)
        for key, dtype in (("value_float", np.float32), ("value_int", np.int64)):
            for each in (key, f"{key}s"):
                if each in attributes:
                    return np.asarray(attributes.get(each), dtype)
        if "value" not in attributes:
            raise NotReadable(f"{described(node)}: a constant of this kind is not supported")
        return constant(attributes.get("value"), described(node))

    def _check(self, node: Any, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise NotReadable(
                f"{described(node)}: expected at most {MOST_DEPTH} nodes one after the other, or it is a cycle"
            )
        if node.domain not in DOMAINS:
            raise NotReadable(f"{described(node)}: operators of this domain are not supported")
