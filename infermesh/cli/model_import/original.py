"""A model of another library: what it answers, and how it becomes ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from infermesh.cli.model_import.detect import Format
from infermesh.cli.model_import.rows import Rows
from infermesh.tensors import Array

__all__ = ["Datatype", "NotConvertible", "Original"]

Datatype = Literal["FP32", "FP64"]


class NotConvertible(Exception):
    """This model can't become ONNX with inputs of this datatype; the text is the converter's reason."""


@dataclass(frozen=True)
class Original:
    """A loaded model, one per file."""

    format: Format
    kind: str
    """What it is in its library's words, such as `Pipeline of StandardScaler, LogisticRegression`."""
    width: int
    """How many columns it takes."""
    names: tuple[str, ...]
    """Of its columns, in the order of its training; empty when the file has none."""
    outputs: tuple[str, ...]
    """What the outputs of the ONNX model are to be called, in their order."""
    answer: Callable[[Rows], dict[str, Array]]
    """The library's own answer, by output: labels [rows], all others [rows] or [rows, K]. Raises Failure for rows that the
    model refuses."""
    convert: Callable[[Rows, Datatype], Any]
    """The ModelProto, with one input `features` [-1, width] of the datatype, or, when a column of the rows is texts, an input
    [-1, 1] for each column. Raises NotConvertible."""
    classes: tuple[str, ...] = ()
    """The names of a classifier's classes, in the order of its probabilities."""
    datatypes: tuple[Datatype, ...] = ("FP32",)
    """Of the inputs, those that the converter knows, the preferred one first."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that took part."""
    takes_missing: bool = False
    """Whether it answers rows with missing numbers."""
    notes: tuple[str, ...] = ()
    """What a person should know of the file."""
