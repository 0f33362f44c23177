"""What a model takes and gives, and whether a request is that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from infermesh.errors import InvalidRequest, quoted
from infermesh.tensors import DATATYPES, Array
from services.predictor.execution.onnx_types import DATATYPE_OF, strings_from_bytes
from services.predictor.load_failed import LoadFailed

__all__ = ["Signature", "TensorSpec"]

_OPTIONAL = "optional("  # how ONNX Runtime begins the type of an input that may be left out: optional(tensor(float))


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the graph; -1 in `shape` is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature:
    """The inputs and outputs of a model version, from the session's nodes. Raises LoadFailed for what OIP has no datatype for.

    `overridable` are the initializers that are graph inputs too: weights with a default, which a request may give. They come last
    in `inputs`; they and inputs of an ONNX optional type are the `optional` ones. `nullable` are those that ONNX Runtime wants to
    be given as None when a request leaves them out.
    """

    def __init__(
        self, model: str, inputs: Sequence[Any], outputs: Sequence[Any], overridable: Sequence[Any] = ()
    ) -> None:
        self.inputs = _specs([*inputs, *overridable], "input")
        self.outputs = _specs(outputs, "output")
        self.output_names = [spec.name for spec in self.outputs]
        self.input_by_name = {spec.name: spec for spec in self.inputs}
        self.output_by_name = {spec.name: spec for spec in self.outputs}
        self.strings = [spec.name for spec in self.inputs if spec.datatype == "BYTES"]
        self.nullable = tuple(node.name for node in inputs if node.type.startswith(_OPTIONAL))
        self.first_dimensions = {  # their names in the graph, where they have one; equal names are equal sizes
            node.name: node.shape[0] for node in inputs if node.shape and isinstance(node.shape[0], str)
        }
        self.optional = frozenset((*self.nullable, *(node.name for node in overridable)))
        self._model = model
        self._shared = _shared_dimensions([*inputs, *overridable])
        self._fixed = {s.name: tuple((axis, d) for axis, d in enumerate(s.shape) if d >= 0) for s in self.inputs}
        _check_together(self.inputs, self.outputs, self.nullable)

    def check(self, arrays: dict[str, Array]) -> None:
        """Raise InvalidRequest unless the arrays are the model's inputs, in datatype, rank and fixed dimensions; no others, and
        only optional ones may be missing.

        Datatypes are compared by their numpy form, so BF16 and UINT16 are told apart by the caller (see `check_datatypes`).
        """
        specs = self.input_by_name
        if arrays.keys() != specs.keys():
            self._check_names(arrays)
        for name, array in arrays.items():
            shape = array.shape
            if len(shape) != len(specs[name].shape):
                self._refuse_shape(name, shape)
            for axis, size in self._fixed[name]:
                if shape[axis] != size:
                    self._refuse_shape(name, shape)
        for dimension, places in self._shared:
            given = [place for place in places if place[0] in arrays] if self.optional else places
            if not given:
                continue
            first, axis = given[0]
            size = arrays[first].shape[axis]
            for name, other_axis in given:
                if arrays[name].shape[other_axis] != size:
                    raise InvalidRequest(
                        f"{self.where(name)}: expected {size} in dimension {other_axis} ({dimension}), as input "
                        f"{quoted(first)} has, got shape {list(arrays[name].shape)[:16]}",
                        reason="INPUT_SHAPE",
                    )

    def check_datatypes(self, inputs: Sequence[Any]) -> None:
        """Raise InvalidRequest for a tensor of a request whose datatype is not the model's."""
        for tensor in inputs:
            spec = self.input_by_name.get(tensor.name)
            if spec is not None and spec.datatype != tensor.datatype and tensor.datatype in DATATYPES:
                raise InvalidRequest(
                    f"{self.where(tensor.name)}: expected {spec.datatype} {list(spec.shape)}, got {tensor.datatype} "
                    f"{list(tensor.shape)[:16]}",
                    reason="INPUT_DATATYPE",
                )

    def requested(self, names: Sequence[str]) -> list[str]:
        """The outputs that are asked for, in that order, each once; all when none is named."""
        if not names:
            return self.output_names
        asked = list(dict.fromkeys(names))
        for name in asked:
            if name not in self.output_by_name:
                raise InvalidRequest(
                    f"model {quoted(self._model)}: output {quoted(name)}: expected one of {', '.join(self.output_names)[:256]}",
                    reason="OUTPUT_UNKNOWN",
                )
        return asked

    def to_strings(self, arrays: dict[str, Array]) -> None:
        """Put the strings that ONNX Runtime takes in the place of BYTES arrays, before a run; raises InvalidRequest."""
        for name in self.strings:
            if name in arrays:  # it may be optional
                arrays[name] = strings_from_bytes(arrays[name], self.where(name))

    def has_new_shape(self, arrays: dict[str, Array]) -> bool:
        """Whether a free dimension past the first, which is the number of rows, is not what it was in the warm-up: the signature
        allows any size there, and the graph may not."""
        return any(
            spec.shape[axis] < 0 and arrays[spec.name].shape[axis] != 1
            for spec in self.inputs
            if spec.name in arrays
            for axis in range(1, len(spec.shape))
        )

    def where(self, name: str) -> str:
        """How an error names an input."""
        return f"model {quoted(self._model)}: input {quoted(name)}"

    def _refuse_shape(self, name: str, shape: tuple[int, ...]) -> NoReturn:
        spec = self.input_by_name[name]
        raise InvalidRequest(
            f"{self.where(name)}: expected {spec.datatype} {list(spec.shape)}, got shape {list(shape)[:16]}",
            reason="INPUT_SHAPE",
        )

    def _check_names(self, arrays: dict[str, Array]) -> None:
        expected = ", ".join(
            f"{s.name} {s.datatype} {list(s.shape)}{' (optional)' if s.name in self.optional else ''}"
            for s in self.inputs
        )[:400]
        for name in arrays:
            if name not in self.input_by_name:
                raise InvalidRequest(
                    f"{self.where(name)}: no such input; expected {expected}", reason="INPUT_UNEXPECTED"
                )
        for name in self.input_by_name:
            if name not in arrays and name not in self.optional:
                raise InvalidRequest(f"{self.where(name)}: missing; expected {expected}", reason="INPUT_MISSING")


def _specs(nodes: Sequence[Any], kind: str) -> tuple[TensorSpec, ...]:
    specs = []
    for node in nodes:
        tensor_type = (
            node.type[len(_OPTIONAL) : -1] if kind == "input" and node.type.startswith(_OPTIONAL) else node.type
        )
        if tensor_type not in DATATYPE_OF:
            raise LoadFailed(f"{kind} {node.name}: {node.type} has no datatype in the Open Inference Protocol")
        shape = tuple(d if isinstance(d, int) and d >= 0 else -1 for d in node.shape)
        specs.append(TensorSpec(node.name, DATATYPE_OF[tensor_type], shape))
    return tuple(specs)


def _check_together(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], nullable: Sequence[str]) -> None:
    """Raise LoadFailed for a signature that would fail on every call: ONNX Runtime's `run` has no array for a BF16 output, and
    `run_with_ort_values`, which has, can be given neither strings nor absent values (1.32: no OrtValue of them in Python)."""
    bf16 = next((spec.name for spec in outputs if spec.datatype == "BF16"), None)
    string = next((spec.name for spec in inputs if spec.datatype == "BYTES"), None)
    if bf16 is not None and (string is not None or nullable):
        given = f"input {string} is a string" if string is not None else f"input {nullable[0]} is of an optional type"
        raise LoadFailed(
            f"{given} and output {bf16} is bfloat16: the Python interface of ONNX Runtime can't do both in one run"
        )


def _shared_dimensions(nodes: Sequence[Any]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Named dimensions that stand in several inputs, such as `rows`: name, and where it is.

    In ONNX equal names mean equal sizes, but ONNX Runtime does not compare them: it fails somewhere inside the graph.
    """
    places: dict[str, list[tuple[str, int]]] = {}
    for node in nodes:
        for axis, dimension in enumerate(node.shape):
            if isinstance(dimension, str):
                places.setdefault(dimension, []).append((node.name, axis))
    return [(name, where) for name, where in places.items() if len(where) > 1]
