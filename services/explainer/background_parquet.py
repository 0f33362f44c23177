"""A background from Parquet files, by pyarrow, which is read when it is first needed: the extra `parquet` has it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from infermesh.tensors import Array
from services.explainer.background_file import BackgroundError
from services.explainer.background_material import Material, most_rows
from services.explainer.background_sample import Sample
from services.explainer.background_table import PIECE_ROWS, Columns, Wanted

__all__ = ["SUFFIX", "read_parquet"]

SUFFIX = ".parquet"
MODEL = "model"  # a column of this name says of which model a row is


def read_parquet(path: Path, model: str, name: str, rows: int, seed: int, wanted: Wanted) -> Material:
    """At most that many rows of a file, or of all files below a folder, each with the same chance; raises BackgroundError.

    An input is a column of numbers, booleans or texts, or of lists of one and the same length. The last file in order says which
    columns there are; a file that lacks one of them, which an older schema may, is passed over. Rows with a null are left out,
    and so are those of other models where there is a column `model` that is no input.
    """
    try:
        pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise BackgroundError(f"{path.name}: reading it needs pyarrow: pip install 'infermesh[parquet]'") from None
    files = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise BackgroundError(f"{path.name}: no {SUFFIX} files in it")
    try:
        columns = Columns.of(parquet.read_schema(files[-1]).names, wanted, files[-1].name)
        sample: Sample | None = None
        for file in files:
            with parquet.ParquetFile(file) as opened:
                there = opened.schema_arrow.names
                if not set(columns.names) <= set(there):
                    continue
                only = MODEL if MODEL in there and MODEL not in columns.names else ""
                read = [*columns.names, *([only] if only else [])]
                for batch in opened.iter_batches(batch_size=PIECE_ROWS, columns=read):
                    usable = batch.filter(_usable(batch, read, only, model))
                    if sample is None:
                        width = sum(_width(usable.column(each)) for each in columns.names)
                        sample = Sample(most_rows(rows, width), seed)
                    taken = usable.take(sample.choose(usable.num_rows))
                    sample.keep({each: _array(taken.column(each), each) for each in columns.names})
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise error if isinstance(error, BackgroundError) else BackgroundError(f"{path.name}: {error}") from None
    return columns.material({} if sample is None else sample.rows(), name, path.name)


def _usable(batch: Any, columns: list[str], only: str, model: str) -> list[bool]:
    usable = np.ones(batch.num_rows, bool)
    for each in columns:
        usable &= batch.column(each).is_valid().to_numpy(zero_copy_only=False)
    if only:
        usable &= np.array([value == model for value in batch.column(only).to_pylist()], bool)
    return usable.tolist()  # type: ignore[no-any-return]


def _width(array: Any) -> int:
    """Elements of a row; of lists that differ, those of the first."""
    return len(array[0].as_py()) if len(array) and hasattr(array.type, "value_type") and _is_list(array) else 1


def _is_list(array: Any) -> bool:
    return "list" in str(array.type).split("<")[0]


def _array(array: Any, column: str) -> Array:
    """Values by row: [N], or [N, W] of lists."""
    if array.type.__class__.__name__ == "DictionaryType":
        array = array.dictionary_decode()
    if _is_list(array):
        lengths = {len(each) for each in array.to_pylist()}
        if len(lengths) > 1:
            raise BackgroundError(f"column {column!r}: expected lists of one length, got {sorted(lengths)[:8]}")
        flat = _array(array.flatten(), column)
        return flat.reshape(len(array), *lengths) if lengths else flat.reshape(0, 1)
    if array.null_count:
        raise BackgroundError(f"column {column!r}: a null within a list")
    kind = str(array.type)
    if kind in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view"):
        texts = np.empty(len(array), np.object_)
        texts[:] = [text.encode() if isinstance(text, str) else text for text in array.to_pylist()]
        return texts
    values: Array = array.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "fiub":
        raise BackgroundError(f"column {column!r}: expected numbers, booleans, texts or lists of them, got {kind}")
    return values
