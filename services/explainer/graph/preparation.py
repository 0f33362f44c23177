"""The operators between a model's inputs and its trees or weights, as ONNX Runtime computes them.

Each takes columns and gives columns of which each depends on one column of the inputs: what mixes columns is refused, since
a split on a mixture belongs to no single feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from services.explainer.graph.attributes import Attributes, described
from services.explainer.graph.encoders import label_encoder, one_hot_encoder
from services.explainer.graph.refusal import NotReadable
from services.explainer.graph.table import Computation, Table

__all__ = ["ELEMENTWISE", "PREPARATIONS", "Constants", "elementwise"]

Constants = Sequence[NDArray[Any] | None]  # beside the tables: the inputs of a node that are constants
Preparation = Callable[[Any, Sequence[Table | None], Constants], Table]

CASTS = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT64: np.int64,
    TensorProto.INT32: np.int32,
    TensorProto.BOOL: np.bool_,
}
ELEMENTWISE: dict[str, Any] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
MOST_COLUMNS = 2**20


def elementwise(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    """Add, Sub, Mul or Div with a constant, on either side."""
    where, apply = described(node), ELEMENTWISE[node.op_type]
    table = _only(node, tables)
    first = tables[0] is table
    value = constants[1] if first else constants[0]
    if value is None or len(tables) != 2:
        raise NotReadable(f"{where}: it mixes columns: expected one of its two inputs to be a constant")
    _check_number(where, table)
    if value.ndim > table.sources.ndim or (value.ndim == table.sources.ndim and value.shape[0] != 1):
        raise NotReadable(f"{where}: a constant of shape {list(value.shape)} differs from row to row")
    try:
        sources = np.array(np.broadcast_to(table.sources, np.broadcast_shapes(table.sources.shape, value.shape)))
    except ValueError:
        raise NotReadable(f"{where}: a constant of shape {list(value.shape)} does not fit its input") from None
    if np.issubdtype(table.dtype, np.integer) and node.op_type == "Div":
        raise NotReadable(f"{where}: division of integers is not supported")

    def compute(computation: Computation) -> Any:
        values = computation.of(table)
        with np.errstate(all="ignore"):  # infinities and NaN are the model's own business
            return apply(values, value.astype(values.dtype)) if first else apply(value.astype(values.dtype), values)

    return Table(sources, compute, False, table.dtype)


def _concat(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    where = described(node)
    parts = [table for table in tables if table is not None]
    if len(parts) != len(tables):
        raise NotReadable(f"{where}: expected columns of the inputs, one of its parts is a constant")
    axis = Attributes(node).get("axis", 1)
    ndim = parts[0].sources.ndim
    axis = axis + ndim if axis < 0 else axis
    if axis < 1 or axis >= ndim or any(part.sources.ndim != ndim for part in parts):
        raise NotReadable(f"{where}: expected columns side by side, got axis {axis} of {ndim} dimensions")
    if len({part.dtype for part in parts}) > 1 or len({part.is_text for part in parts}) > 1:
        raise NotReadable(f"{where}: its inputs are of several datatypes")
    try:
        sources = np.concatenate([part.sources for part in parts], axis=axis)
    except ValueError as error:
        raise NotReadable(f"{where}: {error}") from None
    if sources.size > MOST_COLUMNS:
        raise NotReadable(f"{where}: expected at most {MOST_COLUMNS} columns, got {sources.size}")
    return Table(
        sources,
        lambda computation: np.concatenate([computation.of(part) for part in parts], axis=axis),
        parts[0].is_text,
        parts[0].dtype,
    )


def _feature_vectorizer(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    casts = [None if t is None else t.changed(lambda values: values.astype(np.float32), np.float32) for t in tables]
    return _concat(node, casts, constants)


def _identity(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    return _only(node, tables)


def _cast(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    table, to = _only(node, tables), Attributes(node).get("to")
    if to not in CASTS or table.is_text:
        if to == TensorProto.STRING and table.is_text:
            return table
        raise NotReadable(
            f"{described(node)}: only casts of numbers to FP32, FP64, INT64, INT32 and BOOL are supported"
        )
    dtype = CASTS[to]

    def cast(values: Any) -> Any:
        with np.errstate(all="ignore"):
            return values.astype(dtype)

    return table.changed(cast, dtype)


def _reshape(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    table, shape = _only(node, tables), constants[1] if len(constants) > 1 else None
    target = [] if shape is None else [int(size) for size in shape.ravel()]
    if not target or target[0] not in (-1, 0) or target[0] == -1 == min(target[1:], default=1):
        raise NotReadable(f"{described(node)}: expected a constant shape that keeps the rows, got {target or 'none'}")
    own = table.sources.shape
    row = [own[at] if size == 0 and at < len(own) else size for at, size in enumerate(target)][1:]
    try:
        row_shape = table.sources.reshape(1, *row).shape[1:]
    except ValueError:
        raise NotReadable(
            f"{described(node)}: the shape {target} does not keep rows of {table.width} columns"
        ) from None
    return table.moved(lambda values: values.reshape(len(values), *row_shape))


def _flatten(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    table = _only(node, tables)
    if Attributes(node).get("axis", 1) != 1:
        raise NotReadable(f"{described(node)}: expected axis 1")
    return table.moved(
        lambda values: values.reshape(len(values), -1) if len(values) else values.reshape(0, table.width)
    )


def _gather(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    table, where = _only(node, tables), described(node)
    indices = constants[1] if len(constants) > 1 else None
    last = table.sources.ndim - 1
    axis = Attributes(node).get("axis", 0) if node.op_type == "Gather" else last
    axis = axis + last + 1 if axis < 0 else axis
    if indices is None or not 1 <= axis <= last:
        raise NotReadable(f"{where}: expected constant indices of columns")
    picked = indices.astype(np.int64) if node.op_type == "Gather" else indices.ravel().astype(np.int64)
    if picked.size and not -table.sources.shape[axis] <= picked.min() <= picked.max() < table.sources.shape[axis]:
        raise NotReadable(f"{where}: an index is out of range")
    if picked.size > MOST_COLUMNS:
        raise NotReadable(f"{where}: expected at most {MOST_COLUMNS} columns, got {picked.size}")
    return table.moved(lambda values: np.take(values, picked, axis=axis))


def _scaler(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    table, attributes = _only(node, tables), Attributes(node)
    _check_number(described(node), table)
    offset, scale = (_per_column(node, table, attributes.array(name, np.float32)) for name in ("offset", "scale"))
    return table.changed(lambda values: (values.astype(np.float32) - offset) * scale, np.float32)


def _imputer(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    table, attributes = _only(node, tables), Attributes(node)
    _check_number(described(node), table)
    integers = "imputed_value_int64s" in attributes
    kind, dtype = ("int64", np.int64) if integers else ("float", np.float32)
    imputed = _per_column(node, table, attributes.array(f"imputed_value_{kind}s", dtype))
    replaced = np.asarray(attributes.get(f"replaced_value_{kind}", 0), dtype)

    def impute(values: Any) -> Any:
        missing = np.isnan(values) if np.isnan(replaced) else values == replaced
        return np.where(missing, imputed, values).astype(values.dtype)

    return table.changed(impute, table.dtype)


def _clip(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    table, where, attributes = _only(node, tables), described(node), Attributes(node)
    _check_number(where, table)
    named = [name for name in node.input[1:] if name]
    bounds = [value for value in constants[1:] if value is not None]
    if len(bounds) != len(named):
        raise NotReadable(f"{where}: expected constant bounds")
    low = constants[1] if len(constants) > 1 else attributes.get("min")
    high = constants[2] if len(constants) > 2 else attributes.get("max")
    if low is None and high is None:
        return table
    return table.changed(lambda values: np.clip(values, low, high).astype(values.dtype), table.dtype)


def _unsqueeze(node: Any, tables: Sequence[Table | None], constants: Constants) -> Table:
    table = _only(node, tables)
    axes = constants[1] if len(constants) > 1 else Attributes(node).get("axes")
    places = [] if axes is None else [int(axis) for axis in np.ravel(axes)]
    if len(places) != 1 or places[0] == 0 or abs(places[0]) > table.sources.ndim:
        raise NotReadable(f"{described(node)}: expected one constant axis beside that of the rows")
    if node.op_type == "Unsqueeze":
        return table.moved(lambda values: np.expand_dims(values, places[0]))
    if table.sources.shape[places[0]] != 1 or places[0] == -table.sources.ndim:
        raise NotReadable(f"{described(node)}: expected an axis of size 1 beside that of the rows")
    return table.moved(lambda values: np.squeeze(values, places[0]))


def _only(node: Any, tables: Sequence[Table | None]) -> Table:
    given = [table for table in tables if table is not None]
    if len(given) != 1:
        raise NotReadable(f"{described(node)}: it mixes columns: expected one input with columns, got {len(given)}")
    return given[0]


def _check_number(where: str, table: Table) -> None:
    if table.is_text:
        raise NotReadable(f"{where}: expected numbers, its input is text")


def _per_column(node: Any, table: Table, values: NDArray[Any]) -> NDArray[Any]:
    if values.size not in (1, table.sources.shape[-1]):
        raise NotReadable(f"{described(node)}: expected 1 or {table.sources.shape[-1]} values, got {values.size}")
    return values


def _encoded(encode: Callable[[Any, Table], Table]) -> Preparation:
    return lambda node, tables, constants: encode(node, _only(node, tables))


PREPARATIONS: dict[str, Preparation] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    "ArrayFeatureExtractor": _gather,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "FeatureVectorizer": _feature_vectorizer,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _identity,
    "Imputer": _imputer,
    "LabelEncoder": _encoded(label_encoder),
    "OneHotEncoder": _encoded(one_hot_encoder),
    "Reshape": _reshape,
    "Scaler": _scaler,
    "Squeeze": _unsqueeze,
    "Unsqueeze": _unsqueeze,
}
