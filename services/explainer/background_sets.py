"""A background as the settings declare it: a source, and how many rows of it in which way."""

from __future__ import annotations

from pathlib import Path

from infermesh.errors import MeshError
from infermesh.payloads import PATTERN
from services.explainer.background import Background
from services.explainer.background_file import BackgroundError, read_background
from services.explainer.background_log import read_payloads
from services.explainer.background_material import Material
from services.explainer.background_parquet import SUFFIX, read_parquet
from services.explainer.background_summary import summarised
from services.explainer.background_table import Declared, Wanted, read_csv
from services.explainer.config import BackgroundSet
from services.explainer.signature import COLUMNS, Signature

__all__ = ["make_background", "source_of"]


def make_background(model: str, name: str, declared: BackgroundSet, signature: Signature | None = None) -> Background:
    """Read it and sum it up; seconds for a long log, so not on an event loop. Raises BackgroundError.

    With a signature, columns of a table may be called as the model's features are, and the rows are made to fit the model.
    """
    material = _read(model, name, declared, {} if signature is None else _features(signature))
    background = summarised(material, declared.summary, declared.rows, by=declared.by, seed=declared.seed)
    if signature is None:
        return background
    shapes = {
        spec.name: spec.shape[1:]
        if spec.width >= 0 or spec.name not in background.arrays
        else background.arrays[spec.name].shape[1:]
        for spec in signature.inputs
    }
    try:
        fitted = background.fitted(signature, shapes)
        fitted.check(signature, shapes)
    except MeshError as error:
        raise BackgroundError(error.message) from None
    return fitted


def source_of(path: Path) -> str:
    """The setting that a path is for: `payload_log`, `parquet` or `file`."""
    if path.is_dir():
        return "payload_log" if any(path.glob(PATTERN)) else "parquet"
    return "parquet" if path.suffix == SUFFIX else "file"


def _features(signature: Signature) -> Declared:
    """The names of each input's columns, as the model says them."""
    named = {spec.name: signature.names(COLUMNS + spec.name, spec.width) for spec in signature.inputs}
    return {name: columns or [name] for name, columns in named.items()}


def _read(model: str, name: str, declared: BackgroundSet, features: Declared) -> Material:
    rows = declared.rows if declared.summary == "none" else max(declared.rows, declared.from_rows)
    inputs: Declared = {key: [part] if isinstance(part, str) else part for key, part in declared.inputs.items()}
    if declared.payload_log is not None:
        return read_payloads(declared.payload_log, model, name, rows, declared.seed)
    wanted = Wanted(inputs, features, declared.by)
    if declared.parquet is not None:
        return read_parquet(declared.parquet, model, name, rows, declared.seed, wanted)
    assert declared.file is not None  # the settings have exactly one of the three
    return _read_file(declared.file, name, rows, declared.seed, wanted)


def _read_file(path: Path, name: str, rows: int, seed: int, wanted: Wanted) -> Material:
    if path.suffix == ".csv":
        return read_csv(path, name, rows, seed, wanted)
    if wanted.inputs:
        raise BackgroundError(f"{path.name}: inputs: a JSON file names its inputs itself")
    return Material(read_background(path, name), {})
