"""A background in a file, in OIP's JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infermesh.tensors import DATATYPES, Array
from services.explainer.background import Background

__all__ = ["BackgroundError", "read_background", "written_background"]


class BackgroundError(ValueError):
    """A file that holds no background; the text says why."""


def read_background(path: Path, name: str) -> Background:
    """A set from `{"inputs": [{"name", "datatype", "shape", "data"}, …], "weights": […]}`; the weights may be left out.

    `data` is row-major, nested or flat. Raises BackgroundError.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackgroundError(f"{path.name}: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), list) or not content["inputs"]:
        raise BackgroundError(f'{path.name}: expected an object with a list "inputs"')
    arrays: dict[str, Array] = {}
    datatypes: dict[str, str] = {}
    for position, tensor in enumerate(content["inputs"]):
        where = f"{path.name}: inputs[{position}]"
        if not isinstance(tensor, dict) or not {"name", "datatype", "shape", "data"} <= tensor.keys():
            raise BackgroundError(f"{where}: expected an object with name, datatype, shape and data")
        if tensor["name"] in arrays or not isinstance(tensor["name"], str):
            raise BackgroundError(f"{where}: expected a name of its own, got {tensor['name']!r}")
        arrays[tensor["name"]] = _array(tensor, where)
        datatypes[tensor["name"]] = tensor["datatype"]
    sizes = {name: len(array) for name, array in arrays.items()}
    rows = next(iter(sizes.values()))
    if rows == 0 or set(sizes.values()) != {rows}:
        raise BackgroundError(
            f"{path.name}: expected inputs with one and the same number of rows, 1 or more, got {sizes}"
        )
    weights = _weights(content.get("weights"), rows, path.name)
    return Background(name, arrays, datatypes, weights, source=path.name)


def written_background(background: Background) -> str:
    """The text of a file that `read_background` makes the same background of; one line for each input.

    Raises BackgroundError for a text that is no UTF-8, which JSON can't hold.
    """
    inputs = [
        json.dumps(
            {
                "name": name,
                "datatype": background.datatypes[name],
                "shape": list(array.shape),
                "data": _plain(array, background.datatypes[name], name),
            },
            ensure_ascii=False,
        )
        for name, array in background.arrays.items()
    ]
    equal = bool((background.weights == background.weights[0]).all())
    weights = "" if equal else f',\n  "weights": {json.dumps(background.weights.tolist())}'
    return '{\n  "inputs": [\n    ' + ",\n    ".join(inputs) + f"\n  ]{weights}\n}}\n"


def _plain(array: Array, datatype: str, name: str) -> list[Any]:
    flat = array.ravel()
    if datatype == "BYTES":
        try:
            return [element.decode() for element in flat.tolist()]
        except UnicodeDecodeError:
            raise BackgroundError(f"{name}: a text of it is no UTF-8, which a JSON file can't hold") from None
    if datatype in ("FP32", "FP16"):  # the shortest decimals that give the same number back
        return [float(str(element)) for element in flat]
    plain: list[Any] = flat.tolist()
    return plain


def _array(tensor: Mapping[str, Any], where: str) -> Array:
    datatype = DATATYPES.get(tensor["datatype"]) if isinstance(tensor["datatype"], str) else None
    if datatype is None or datatype.name == "BF16":
        usable = ", ".join(d for d in DATATYPES if d != "BF16")
        raise BackgroundError(f"{where}: datatype: expected one of {usable}, got {tensor['datatype']!r}")
    shape = tensor["shape"]
    if not isinstance(shape, list) or not shape or not all(type(d) is int and d >= 0 for d in shape):
        raise BackgroundError(f"{where}: shape: expected a list of dimensions, the rows first, got {shape!r}")
    flat = list(_flat(tensor["data"]))
    if len(flat) != prod(shape):
        raise BackgroundError(f"{where}: data: expected {prod(shape)} elements for shape {shape}, got {len(flat)}")
    array: Array = np.empty(len(flat), datatype.dtype)
    try:
        if datatype.name == "BYTES":
            array[:] = [element.encode() for element in flat]
        elif any(isinstance(element, str) or element is None for element in flat):
            raise TypeError("expected numbers")
        else:
            array[:] = flat
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise BackgroundError(f"{where}: data: expected {datatype.name} elements: {error}") from None
    return array.reshape(shape)


def _flat(data: Any) -> Iterator[Any]:
    for element in data if isinstance(data, list) else [data]:
        if isinstance(element, list):
            yield from _flat(element)
        else:
            yield element


def _weights(given: Any, rows: int, where: str) -> NDArray[np.float64]:
    if given is None:
        return np.full(rows, 1 / rows)
    try:
        weights = np.array(given, np.float64)
    except (TypeError, ValueError):
        weights = np.empty(0)
    if weights.shape != (rows,) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise BackgroundError(f"{where}: weights: expected {rows} numbers of 0 or more that are not all 0")
    total: NDArray[np.float64] = weights / weights.sum()
    return total
