"""What the metadata of a model say: what it takes, what it gives, what its columns and classes are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from infermesh.errors import FailedPrecondition, InvalidRequest, quoted
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import DATATYPES, Array

__all__ = ["CLASSES", "COLUMNS", "FLOATING", "Signature", "TensorSpec"]

COLUMNS = "infermesh.columns."  # + input: a JSON list of names
CLASSES = "infermesh.classes"  # a JSON list of names
FLOATING = ("FP64", "FP32", "FP16", "BF16")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the model; -1 in `shape` is a dimension of any size, the first one is rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Elements of one row; -1: not fixed."""
        return -1 if -1 in self.shape[1:] else prod(self.shape[1:])

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}"


@dataclass(frozen=True)
class Signature:
    """One model as its server describes it."""

    model: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: Mapping[str, str]

    @classmethod
    def of(cls, model: str, metadata: pb.ModelMetadataResponse) -> Signature:
        """From the answer to ModelMetadata."""
        return cls(
            model, tuple(metadata.versions), _specs(metadata.inputs), _specs(metadata.outputs), metadata.properties
        )

    @property
    def newest(self) -> str:
        """The newest of its versions, compared as numbers; empty when it lists none."""
        return max((v for v in self.versions if v.isdecimal()), key=int, default="")

    def names(self, key: str, count: int) -> list[str] | None:
        """The names under a property, if there are as many as are due and they can be written."""
        try:
            names = json.loads(self.properties[key]) if key in self.properties else None
            "".join(names or ()).encode()
        except (ValueError, TypeError, RecursionError):
            return None
        if isinstance(names, list) and len(names) == count and all(isinstance(n, str) for n in names):
            return names
        return None

    def check_rows(self) -> None:
        """Raise FailedPrecondition unless any number of rows can be asked about at a time."""
        if not self.inputs:
            raise FailedPrecondition(
                f"model {quoted(self.model)}: it has no inputs to explain it by", reason="NOT_EXPLAINABLE"
            )
        for spec in self.inputs:
            if not spec.shape or spec.shape[0] != -1:
                raise FailedPrecondition(
                    f"model {quoted(self.model)}: input {quoted(spec.name)}: explaining needs a first dimension of any number "
                    f"of rows, the model has {list(spec.shape)}",
                    reason="NOT_EXPLAINABLE",
                )

    def output(self, name: str = "") -> TensorSpec:
        """The output that is explained: the one named, or the first floating one.

        Raises InvalidRequest for one that there is not or that is a label, FailedPrecondition when there is none to explain.
        """
        floating = [spec for spec in self.outputs if spec.datatype in FLOATING and spec.shape]
        if not floating:
            has = ", ".join(map(str, self.outputs))[:256]
            raise FailedPrecondition(
                f"model {quoted(self.model)}: none of its outputs is a floating one with rows, it has {has or 'none'}",
                reason="NOT_EXPLAINABLE",
            )
        if not name:
            return floating[0]
        names = ", ".join(spec.name for spec in floating)[:256]
        for spec in self.outputs:
            if spec.name == name:
                if spec in floating:
                    return spec
                raise InvalidRequest(
                    f"model {quoted(self.model)}: output {quoted(name)} is {spec.datatype} {list(spec.shape)}: a label has no "
                    f"amount that features could add up to; explain one of {names}",
                    reason="OUTPUT_NOT_EXPLAINABLE",
                )
        raise InvalidRequest(
            f'model {quoted(self.model)}: parameter "output": expected one of {names}, got {quoted(name)}',
            reason="PARAMETER_INVALID",
        )

    def check(self, request: pb.ModelInferRequest, arrays: Mapping[str, Array]) -> int:
        """The number of rows; raises InvalidRequest unless the request has exactly the model's inputs, all of as many rows."""
        expected = {spec.name: spec for spec in self.inputs}
        for tensor in request.inputs:
            spec = expected.get(tensor.name)
            if spec is None:
                raise InvalidRequest(
                    f"{self._where(tensor.name)}: no such input; expected {self._inputs()}", reason="INPUT_UNEXPECTED"
                )
            if spec.datatype != tensor.datatype and tensor.datatype in DATATYPES:
                raise InvalidRequest(
                    f"{self._where(tensor.name)}: expected {spec.datatype} {list(spec.shape)}, got {tensor.datatype} "
                    f"{list(tensor.shape)[:16]}",
                    reason="INPUT_DATATYPE",
                )
        rows = -1
        for name, spec in expected.items():
            if name not in arrays:
                raise InvalidRequest(f"{self._where(name)}: missing; expected {self._inputs()}", reason="INPUT_MISSING")
            shape = arrays[name].shape
            if len(shape) != len(spec.shape) or any(e >= 0 and e != s for e, s in zip(spec.shape, shape, strict=True)):
                raise InvalidRequest(
                    f"{self._where(name)}: expected {spec.datatype} {list(spec.shape)}, got shape {list(shape)[:16]}",
                    reason="INPUT_SHAPE",
                )
            own = shape[0] if shape else 1
            if rows not in (-1, own):
                first = self.inputs[0].name
                raise InvalidRequest(
                    f"{self._where(name)}: expected {rows} rows, as input {quoted(first)} has, got {own}",
                    reason="INPUT_ROWS",
                )
            rows = own
        return rows

    def same_tensors(self, other: Signature) -> bool:
        """Whether both take and give the same."""
        return self.inputs == other.inputs and self.outputs == other.outputs

    def _inputs(self) -> str:
        return ", ".join(map(str, self.inputs))[:400]

    def _where(self, name: str) -> str:
        return f"model {quoted(self.model)}: input {quoted(name)}"


def _specs(tensors: Sequence[pb.ModelMetadataResponse.TensorMetadata]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in tensors)
