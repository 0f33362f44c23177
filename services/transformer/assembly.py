"""One input of the model that is put together from columns of views, fields of the request and what a hook returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from infermesh.errors import quoted
from infermesh.tensors import DATATYPES, Array
from services.transformer.columns import Columns, Rows
from services.transformer.feature_service import REQUEST, Column, FeatureService, ModelInput, Reference
from services.transformer.row import RowFormat
from services.transformer.service_faults import type_of, types_of
from services.transformer.transforms import ValueRefused, step_of
from services.transformer.transforms.steps import ratio
from services.transformer.transforms.types import ColumnType
from services.transformer.views import FeatureFile, is_view

__all__ = ["Assembly", "ColumnRefused", "Given", "input_of", "source_of"]


class Given(NamedTuple):
    """What there is for N rows: rows of views, fields of the request, and what the hook made of both. Arrays are (N, k)."""

    rows: Mapping[str, Rows]
    fields: Mapping[str, Array]
    hooked: Mapping[str, Array]


class ColumnRefused(Exception):
    """A value that a declared transform has no answer for: the caller's, if `of_request`, else a stored one."""

    def __init__(self, what: str, *, of_request: bool) -> None:
        super().__init__(what)
        self.of_request = of_request


Source = Callable[[Given], Array]  # of N rows, (N, k)


class Assembly:
    """Columns of several origins side by side, as one tensor [N, W], or [N] with rank 1."""

    def __init__(self, parts: Sequence[tuple[str, Source, int]], datatype: str, rank: int) -> None:
        self.datatype = datatype
        self.width = sum(width for _, _, width in parts)
        self.shape = (-1,) if rank == 1 else (-1, self.width)
        self._dtype = DATATYPES[datatype].dtype
        self._parts = parts
        self._vector = rank == 1

    def take(self, given: Given, count: int) -> Array:
        """The tensor for N rows. Raises ColumnRefused."""
        tensor = np.empty((count, self.width), self._dtype)
        start = 0
        for text, source, width in self._parts:
            try:
                with np.errstate(over="ignore"):  # FP64 past FP32's range is infinite, as IEEE 754 has it
                    tensor[:, start : start + width] = source(given)
            except ValueRefused as refused:
                of_request = f"{REQUEST}." in text
                raise ColumnRefused(f"column {quoted(text)}: {refused}", of_request=of_request) from None
            start += width
        return tensor.reshape(-1) if self._vector else tensor


def input_of(
    file: FeatureFile, service: FeatureService, source: ModelInput, formats: Mapping[str, RowFormat]
) -> Columns | Assembly:
    """How an input is made. One of stored columns alone is `Columns`: slices of rows, and nothing else to do."""
    plain = [r for column in source.parts if column.is_plain for r in column.references if is_view(r, service)]
    if len(plain) == len(source.parts):
        names = [(r.of, feature.name) for r in plain for feature in file.features_of(service, r)]
        datatype = source.datatype or types_of(file, service, plain[0])[0].datatype
        return Columns(names, formats, datatype, vector=source.rank == 1)
    parts = [_part(file, service, column, formats) for column in source.parts]
    return Assembly([(t, s, of.width) for t, s, of in parts], source.datatype or parts[0][2].datatype, source.rank)


def source_of(
    file: FeatureFile, service: FeatureService, reference: Reference, formats: Mapping[str, RowFormat]
) -> Source:
    """Where the values of one reference come from, in their own datatype."""
    if not is_view(reference, service):
        name = reference.name
        return (lambda given: given.fields[name]) if reference.of == REQUEST else (lambda given: given.hooked[name])
    features = file.features_of(service, reference)
    columns = Columns([(reference.of, feature.name) for feature in features], formats, features[0].datatype)
    return lambda given: columns.take(given.rows).reshape(-1, columns.width)  # a matrix stands in one row


def _part(
    file: FeatureFile, service: FeatureService, column: Column, formats: Mapping[str, RowFormat]
) -> tuple[str, Source, ColumnType]:
    if column.is_plain and len({each.datatype for each in types_of(file, service, column.references[0])}) > 1:
        return _mixed(file, service, column, formats)
    sources = [source_of(file, service, reference, formats) for reference in column.references]
    if column.ratio is not None:
        work = _ratio(sources[0], sources[1], column.zero)
        found = ColumnType("FP64")
    else:
        (work,) = sources
        found = type_of(file, service, column.model_copy(update={"transform": []}))
    for transform in column.transform:
        step = step_of(transform, found)
        work, found = _then(work, step.apply), step.becomes
    return column.text, work, found


def _mixed(
    file: FeatureFile, service: FeatureService, column: Column, formats: Mapping[str, RowFormat]
) -> tuple[str, Source, ColumnType]:
    """Columns of a view that differ in datatype; the input says which they become."""
    (reference,) = column.references
    features = file.features_of(service, reference)
    singles = [source_of(file, service, Reference(reference.of, feature.name), formats) for feature in features]
    width = sum(feature.stored.elements for feature in features)
    return column.text, lambda given: np.hstack([source(given) for source in singles]), ColumnType("FP64", width)


def _ratio(above: Source, below: Source, zero: float) -> Source:
    return lambda given: ratio(above(given), below(given), zero)


def _then(first: Source, apply: Callable[[Array], Array]) -> Source:
    return lambda given: apply(first(given))
