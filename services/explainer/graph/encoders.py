"""Categories as numbers: the OneHotEncoder and LabelEncoder of ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

from services.explainer.graph.attributes import Attributes, described
from services.explainer.graph.refusal import NotReadable
from services.explainer.graph.table import Table

__all__ = ["label_encoder", "one_hot_encoder"]

MOST_COLUMNS = 2**20
TEXT = "text"
KINDS: dict[str, Any] = {"strings": TEXT, "int64s": np.int64, "floats": np.float32}
UNKNOWN = {"strings": b"_Unused", "int64s": -1, "floats": np.float32(-0.0)}  # the defaults of the specification


def one_hot_encoder(node: Any, table: Table) -> Table:
    """[rows, columns] → [rows, columns, categories]; all of a column's categories depend on that column."""
    attributes, where = Attributes(node), described(node)
    texts = attributes.get("cats_strings")
    if bool(texts) != table.is_text:
        raise NotReadable(f"{where}: its categories and its input are of different kinds")
    categories = list(texts) if texts else [int(category) for category in attributes.get("cats_int64s", ())]
    if not 0 < len(categories) * table.width <= MOST_COLUMNS:
        raise NotReadable(f"{where}: expected 1 to {MOST_COLUMNS} columns, got {len(categories) * table.width}")
    place = {category: at for at, category in enumerate(categories)}
    unknown_allowed = attributes.get("zeros", 1) != 0

    def encode(values: Any) -> Any:
        found = _places(values if table.is_text else values.astype(np.int64), place)
        if not unknown_allowed and (found < 0).any():
            raise NotReadable(f"{where}: a category is not one of the {len(categories)} that it knows")
        return (found[..., None] == np.arange(len(categories))).astype(np.float32)

    sources = np.repeat(table.sources[..., None], len(categories), axis=-1)
    return Table(sources, lambda computation: encode(computation.of(table)))


def label_encoder(node: Any, table: Table) -> Table:
    """Each key's value in its place."""
    attributes, where = Attributes(node), described(node)
    if "classes_strings" in attributes:  # version 1: a text's place in the list
        classes = attributes.get("classes_strings")
        place = {name: at for at, name in enumerate(classes)}
        default = attributes.get("default_int64", -1)
        if not table.is_text:
            raise NotReadable(f"{where}: expected text as input")
        return table.changed(lambda v: np.where((p := _places(v, place)) < 0, default, p).astype(np.int64), np.int64)
    keys_of = next((kind for kind in KINDS if f"keys_{kind}" in attributes), None)
    values_of = next((kind for kind in KINDS if f"values_{kind}" in attributes), None)
    if keys_of is None or values_of is None:
        raise NotReadable(f"{where}: expected lists of keys and values")
    keys, listed = attributes.get(f"keys_{keys_of}"), attributes.get(f"values_{values_of}")
    if len(keys) != len(listed) or (KINDS[keys_of] is TEXT) != table.is_text:
        raise NotReadable(f"{where}: its keys do not fit its values or its input")
    default = attributes.get(f"default_{values_of[:-1]}", UNKNOWN[values_of])
    gives_text = KINDS[values_of] is TEXT
    values = np.empty(len(listed) + 1, object if gives_text else KINDS[values_of])
    values[:] = [*listed, default]  # the last is found by place -1
    if keys_of == "floats":
        keys = [float(np.float32(key)) for key in keys]
        if any(key != key for key in keys):
            raise NotReadable(f"{where}: a key is NaN, which ONNX Runtime finds or not by the version of the operator")

    place = {key: at for at, key in reversed(list(enumerate(keys)))}  # the first of two that are alike

    def encode(array: Any) -> Any:
        return values[_places(array, place)]

    return table.changed(encode, object if gives_text else KINDS[values_of], gives_text)


def _places(values: Any, place: dict[Any, int]) -> Any:
    """Distinct numbers are looked up once; texts are objects, which a dictionary finds faster than sorting does."""
    if values.dtype == np.object_:
        found = [place.get(value, -1) for value in values.ravel().tolist()]
        return np.array(found, np.intp).reshape(values.shape)
    distinct, inverse = np.unique(values, return_inverse=True)
    found = [place.get(value, -1) for value in distinct.tolist()]
    return np.array(found, np.intp)[inverse].reshape(values.shape)
