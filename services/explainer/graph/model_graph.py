"""What is known of a model from its ONNX file: its trees or weights, what they see of the inputs, and what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array
from services.explainer.estimate import Floats
from services.explainer.graph.reader import Reader
from services.explainer.graph.refusal import NotReadable
from services.explainer.graph.score import Link, Weights, linked
from services.explainer.graph.table import Computation, Table
from services.explainer.graph.trees import Trees

__all__ = ["Column", "Link", "ModelGraph"]


MOST_ELEMENTS = 2**27  # of a matrix: 512 MiB
MALFORMED = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)


class Column(NamedTuple):
    """A column of one of the model's inputs: an element of its rows."""

    input: str
    place: int


@dataclass(frozen=True, eq=False)
class ModelGraph:
    """Its margin is `scores @ mix + offset`, its output the margin through the link. Never changed, so threads may share it."""

    output: str
    """The output of the model that it stands for."""
    link: Link
    model: Trees | Weights
    mix: Floats  # [scores, columns of the output]
    offset: Floats
    columns: tuple[Column, ...]
    """Which column of the model's inputs each column that trees or weights see depends on."""
    table: Table

    @classmethod
    def read(cls, content: bytes, output: str = "") -> ModelGraph:
        """From the bytes of a model file: the output that is named, or else the first one that can be read.

        Raises NotReadable, whatever the bytes are.
        """
        reader = Reader.of(content)
        try:
            name, score = reader.output(output)
        except MALFORMED as error:  # attributes of other types or lengths than the operators have, from who knows where
            raise NotReadable(f"the graph is malformed: {type(error).__name__}: {str(error)[:200]}") from None
        sources = [Column(*reader.columns[at]) for at in score.table.sources.ravel()]
        return cls(name, score.link, score.model, score.mix, score.offset, tuple(sources), score.table)

    @property
    def kind(self) -> Literal["tree", "linear"]:
        return "tree" if isinstance(self.model, Trees) else "linear"

    @property
    def width(self) -> int:
        """Columns of the output."""
        return len(self.offset)

    def matrix(self, inputs: Mapping[str, Array]) -> Array:
        """[rows, columns]: what the trees or weights see of the inputs, as ONNX Runtime computes it.

        Raises NotReadable for inputs that the model itself refuses.
        """
        for name in dict.fromkeys(column.input for column in self.columns):
            if name not in inputs:
                raise NotReadable(f"input {name}: missing")
        rows = len(inputs[self.columns[0].input]) if self.columns else 0
        if rows * len(self.columns) > MOST_ELEMENTS:
            raise NotReadable(
                f"of {len(self.columns)} columns expected at most {MOST_ELEMENTS // len(self.columns)} rows, got {rows}"
            )
        values = Computation(inputs).of(self.table)
        if values.dtype in (np.float32, np.float64):
            return values
        return values.astype(np.float32)  # integers are compared as FP32, as ONNX Runtime does

    def players(self, of_column: Mapping[str, NDArray[np.intp]]) -> NDArray[np.intp]:
        """The player of each column of `matrix`, from that of each column of the inputs."""
        try:
            found = [of_column[column.input][column.place] for column in self.columns]
        except (KeyError, IndexError):
            raise NotReadable("the players are not those of the inputs that the graph has") from None
        return np.array(found, np.intp)

    def probability(self, margin: Floats) -> Floats:
        """The model's output, from its margin."""
        return linked(self.link, margin)
