"""The one number of each row that a step is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from infermesh.errors import Internal
from infermesh.tensors import Array
from services.transformer.after.answer import Answer
from services.transformer.after.declared import Scored
from services.transformer.after.outputs import ANY, Outputs, OutputType

__all__ = ["Score"]


class Score:
    """Finds the column of an output."""

    def __init__(self, declared: Scored) -> None:
        self.of = declared.of
        self._column = declared.column
        self._names = declared.names
        if isinstance(self._column, str) and self._names is not None:
            self._column = self._names.index(self._column)
        self.needs_classes = isinstance(self._column, str)

    def follow(self, outputs: Outputs, datatypes: tuple[str, ...]) -> OutputType:
        """Check what is known of the output."""
        found = outputs.use("of", self.of)
        if found.datatype and found.datatype not in datatypes:
            outputs.fault("of", f'"{self.of}" is {found.datatype}; expected {", ".join(datatypes)}')
        if found.shape is not None and len(found.shape) not in (1, 2):
            outputs.fault("of", f'"{self.of}" is {list(found.shape)}; expected [N] or [N, C]')
            return found
        width, column = found.width, self._column
        if self._names is not None and width not in (ANY, len(self._names)):
            outputs.fault("names", f"{len(self._names)} names for {width} columns")
        if isinstance(column, str):
            outputs.names("column", None, width)
            if outputs.classes and column not in outputs.classes:
                outputs.fault("column", f'"{column}" is no class of the model; there are {_some(outputs.classes)}')
        elif width != ANY and (width != 1 if column is None else column >= width):
            what = (
                f"which of {width} columns is meant?" if column is None else f"{column} of {width} columns, from 0 on"
            )
            outputs.fault("column", what)
        return found

    def take(self, answer: Answer, datatypes: tuple[str, ...]) -> tuple[str, Array, int]:
        """Datatype, array (N, C) and column of an answer. Raises Internal for one that does not fit."""
        datatype, array = answer.take(self.of)
        if datatype not in datatypes or array.ndim not in (1, 2):
            what = f"expected numbers [N] or [N, C], got {datatype} {list(array.shape)}"
            raise answer.misfit(self.of, what)
        if array.ndim == 1:
            array = array[:, np.newaxis]
        width = array.shape[1]
        if self._names is not None and len(self._names) != width:
            raise answer.misfit(self.of, f"expected a column for each of {len(self._names)} names, got {width}")
        column = self._column
        if isinstance(column, str):
            column = self._of_the_model(answer, column, width)
        if column is None:
            if width != 1:
                raise answer.misfit(self.of, f"expected one column, got {width}")
            column = 0
        if column >= width:
            raise answer.misfit(self.of, f"expected a column {column}, got {width} columns")
        return datatype, array, column

    def _of_the_model(self, answer: Answer, name: str, width: int) -> int:
        names = answer.classes.names
        if name not in names:
            raise _no_class(answer, self.of, name)
        if len(names) != width:
            raise answer.misfit(self.of, f"expected a column for each of the model's {len(names)} classes, got {width}")
        return names.index(name)


def _no_class(answer: Answer, of: str, name: str) -> Internal:
    return answer.misfit(of, f"expected a class {name} in the model's property infermesh.classes")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names)[:256]
