"""Names of classes in the place of their indices, or of the likeliest column."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import Array
from services.transformer.after.answer import Answer, Words
from services.transformer.after.declared import Classes
from services.transformer.after.numbers import FLOATS, as_doubles
from services.transformer.after.outputs import Outputs, OutputType
from services.transformer.after.ranking import first_nan
from services.transformer.after.step import Step
from services.transformer.transforms.types import INTEGERS

__all__ = ["NameClasses"]


class NameClasses(Step):
    """Of integers each is an index; of floats (N, C) the highest of each row counts, the first of equals."""

    def __init__(self, declared: Classes) -> None:
        self.reads = (declared.of,)
        self._of = declared.of
        self._as = declared.as_ or declared.of
        self.makes = (self._as,)
        self._names = Words(declared.names) if declared.names is not None else None
        self.needs_classes = self._names is None

    def follow(self, outputs: Outputs) -> None:
        found = outputs.use("of", self._of)
        names = self._names.names if self._names is not None else None
        shape = found.shape
        if found.datatype in FLOATS:
            if shape is not None and (len(shape) != 2 or shape[1] == 0):
                outputs.fault("of", f'"{self._of}" is {found.datatype} {list(shape)}; expected [N, C] or integers')
            outputs.names("names", names, found.width if shape is not None and len(shape) == 2 else -1)
            shape = shape[:1] if shape is not None else None
        else:
            if found.datatype and found.datatype not in ("BOOL", *INTEGERS):
                outputs.fault("of", f'"{self._of}" is {found.datatype}; expected integers or floats')
            outputs.names("names", names)
        outputs.put("as", self._as, OutputType("BYTES", shape), instead=self._of)

    def apply(self, answer: Answer) -> None:
        datatype, array = answer.take(self._of)
        words = self._names if self._names is not None else answer.classes
        if not len(words):
            raise answer.misfit(self._of, "has no names: the model has no property infermesh.classes")
        if datatype in FLOATS:
            codes = self._likeliest(answer, datatype, array, len(words))
        elif datatype in INTEGERS or datatype == "BOOL":
            codes = self._indices(answer, array, len(words))
        else:
            raise answer.misfit(self._of, f"expected integers or floats, got {datatype}")
        held = words.held(codes)
        if self._as == self._of:
            answer.put(self._of, held)
        else:
            answer.add(self._as, held)

    def _likeliest(self, answer: Answer, datatype: str, array: Array, names: int) -> NDArray[np.intp]:
        if array.ndim != 2 or array.shape[1] != names:
            raise answer.misfit(self._of, f"expected [N, {names}], a column for each name, got {list(array.shape)}")
        doubles = as_doubles(datatype, array)
        if (row := first_nan(doubles)) is not None:
            raise answer.refused(self._of, f"row {row}: NaN, of which no class is the likeliest")
        codes: NDArray[np.intp] = doubles.argmax(axis=1)
        return codes

    def _indices(self, answer: Answer, array: Array, names: int) -> NDArray[np.intp]:
        good = np.greater_equal(array, 0) & np.less(array, names)
        if not good.all():
            value = array.ravel()[int(np.argmin(good))]
            raise answer.misfit(self._of, f"expected indices from 0 to {names - 1}, as there are names, got {value}")
        return array.astype(np.intp)
