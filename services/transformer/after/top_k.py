"""The highest of each row, with their names or indices."""

from __future__ import annotations

import numpy as np

from services.transformer.after.answer import Answer, Held, Words
from services.transformer.after.declared import TopK
from services.transformer.after.numbers import FLOATS, as_doubles
from services.transformer.after.outputs import ANY, Outputs, OutputType
from services.transformer.after.ranking import first_nan, highest
from services.transformer.after.step import Step

__all__ = ["TakeTop"]


class TakeTop(Step):
    """They are ranked as the output has them, and the values rounded to FP32 then."""

    def __init__(self, declared: TopK) -> None:
        self.reads, self.makes = (declared.of,), (declared.values, declared.classes)
        self.needs_classes = declared.names == "model"
        self._of, self._k = declared.of, declared.k
        self._values, self._classes = declared.values, declared.classes
        self._names = Words(declared.names) if isinstance(declared.names, list) else None
        self._is_named = declared.names is not None

    def follow(self, outputs: Outputs) -> None:
        found = outputs.use("of", self._of)
        shape = found.shape
        if (found.datatype or "FP32") not in FLOATS or (shape is not None and len(shape) != 2):
            got = f"{found.datatype} {list(shape) if shape is not None else ''}".strip()
            outputs.fault("of", f'"{self._of}" is {got}; expected floats [N, C]')
        width = found.width if shape is not None and len(shape) == 2 else ANY
        if width != ANY and width < self._k:
            outputs.fault("k", f'{self._k} of {width} columns of "{self._of}"')
        if self._is_named:
            outputs.names("names", self._names.names if self._names is not None else None, width)
        made = (shape[0] if shape else ANY, self._k)
        outputs.put("values", self._values, OutputType("FP32", made))
        outputs.put("classes", self._classes, OutputType("BYTES" if self._is_named else "INT64", made))

    def apply(self, answer: Answer) -> None:
        datatype, array = answer.take(self._of)
        words = self._names if self._names is not None else answer.classes if self._is_named else None
        if datatype not in FLOATS or array.ndim != 2 or array.shape[1] < self._k:
            what = f"expected floats [N, C] with {self._k} columns or more, got {datatype} {list(array.shape)}"
            raise answer.misfit(self._of, what)
        if words is not None and len(words) != array.shape[1]:
            raise answer.misfit(self._of, f"expected a column for each of {len(words)} names, got {array.shape[1]}")
        doubles = as_doubles(datatype, array)
        if (row := first_nan(doubles)) is not None:
            raise answer.refused(self._of, f"row {row}: NaN, which has no rank")
        columns = highest(doubles, self._k)
        with np.errstate(over="ignore"):
            values = np.take_along_axis(doubles, columns, axis=1).astype(np.float32)
        answer.add(self._values, Held("FP32", values))
        answer.add(self._classes, Held("INT64", columns.astype(np.int64)) if words is None else words.held(columns))
