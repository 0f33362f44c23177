"""Data of a warm-up from a `.npy` file beside the versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from infermesh.tensors import DATATYPES, Array
from services.predictor.execution.signature import TensorSpec
from services.predictor.load_failed import LoadFailed

__all__ = ["rows_of_file"]


def rows_of_file(spec: TensorSpec, file: str, rows: int, folder: Path) -> Array:
    """As many rows of the file as are wanted, from its first one on and again; the whole array where the model's first dimension
    is fixed. `file` is relative to `folder` and inside it.

    BF16 is the bits as uint16 (or what ml_dtypes saves), strings are numpy's `U` or `S`, UTF-8. Nothing is unpickled. Raises
    LoadFailed for a file that is outside, unreadable, or of another datatype or shape than the input's.
    """
    where = f"warm_up: input {spec.name}: {file}"
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise LoadFailed(f"{where}: expected a file inside the model's folder")
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise LoadFailed(f"{where}: no such file in the model's folder") from None
    except (OSError, ValueError, EOFError) as error:
        text = str(error).replace(f"{folder}/", "")[:200]
        raise LoadFailed(f"{where}: expected an array as numpy.save writes it, without objects: {text}") from None
    if not isinstance(array, np.ndarray):  # numpy.load opens archives of several too
        raise LoadFailed(f"{where}: expected one array (.npy), got an archive")
    fits = _has_datatype(array, spec.datatype) and array.ndim == len(spec.shape)
    if not fits or any(size not in (-1, is_) for size, is_ in zip(spec.shape, array.shape, strict=True)):
        raise LoadFailed(
            f"{where}: expected {spec.datatype} {list(spec.shape)}, got {array.dtype} {list(array.shape)[:16]}"
        )
    if array.ndim and spec.shape[0] < 0:
        if not len(array) and rows:
            raise LoadFailed(f"{where}: expected at least one row")
        array = array[np.arange(rows) % max(1, len(array))]
    return _as_given(array, spec.datatype, where)


def _has_datatype(array: Array, datatype: str) -> bool:
    if datatype == "BYTES":
        return array.dtype.kind in "SU"
    if datatype == "BF16":
        return array.dtype.itemsize == 2 and array.dtype.kind in "uV"
    return array.dtype == DATATYPES[datatype].dtype


def _as_given(array: Array, datatype: str, where: str) -> Array:
    """As `Session.run` takes it."""
    if datatype != "BYTES":
        return np.ascontiguousarray(array.view(np.uint16) if datatype == "BF16" else array).reshape(array.shape)
    if array.dtype.kind == "U":
        return np.asarray(array, np.object_)
    try:
        return np.asarray(np.char.decode(np.asarray(array, np.bytes_), "utf-8"), np.object_)
    except UnicodeDecodeError:
        raise LoadFailed(f"{where}: expected strings in UTF-8") from None
