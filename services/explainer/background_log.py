"""A background that is sampled from the gateway's payload log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from infermesh.payloads import Payloads, Record, Tensor
from infermesh.tensors import DATATYPES, Array
from services.explainer.background import Background
from services.explainer.background_file import BackgroundError
from services.explainer.background_material import OUTPUT, Material, most_rows
from services.explainer.background_sample import Sample
from services.explainer.signature import FLOATING

__all__ = ["read_payloads"]

MAX_LAYOUTS = 8  # sets of inputs that are sampled side by side; clients send one, or two while they change

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]  # name, datatype and shape of a row, of each input and output


def read_payloads(folder: Path, model: str, name: str, rows: int, seed: int) -> Material:
    """At most that many rows of a model's logged requests, each with the same chance; raises BackgroundError.

    Calls whose inputs are not all in the log are passed over. Where requests differ in what they carry, it is the kind with the
    most rows. Floating outputs come along as `output.<name>`.
    """
    if not folder.is_dir():
        raise BackgroundError(f"{folder.name}: no such folder")
    samples: dict[Layout, Sample] = {}
    log = Payloads(folder, route=model)
    passed_over = 0
    for record in log:
        columns = _columns(record)
        if columns is None:
            passed_over += 1
            continue
        layout = tuple((key, datatype, array.shape[1:]) for key, (datatype, array) in columns.items())
        if layout not in samples:
            if len(samples) == MAX_LAYOUTS:
                passed_over += 1
                continue
            width = sum(array[0].size for _, array in columns.values())
            samples[layout] = Sample(most_rows(rows, width), seed)
        chosen = samples[layout].choose(len(next(iter(columns.values()))[1]))
        samples[layout].keep({key: array[chosen] for key, (_, array) in columns.items()})
    if not samples:
        raise BackgroundError(
            f"{folder.name}: no usable call to {model}: {passed_over} without all of their values, {log.skipped} lines that are "
            "none of the log"
        )
    layout, sample = max(samples.items(), key=lambda item: item[1].offered)
    arrays = sample.rows()
    count = len(next(iter(arrays.values())))
    inputs = {key: datatype for key, datatype, _ in layout if not key.startswith(OUTPUT)}
    others = {key: array for key, array in arrays.items() if key.startswith(OUTPUT)}
    background = Background(
        name, {key: arrays[key] for key in inputs}, inputs, np.full(count, 1 / count), f"payload log {folder.name}"
    )
    return Material(background, others)


def _columns(record: Record) -> Mapping[str, tuple[str, Array]] | None:
    """Datatypes and values of the inputs, and of the outputs that have a row for each of theirs; None: not usable."""
    found: dict[str, tuple[str, Array]] = {}
    try:
        for tensor in record.inputs.values():
            found[tensor.name] = (tensor.datatype, _array(tensor))
        counts = {len(array) for _, array in found.values()}
        if len(counts) != 1 or 0 in counts or any(key.startswith(OUTPUT) for key in found):
            return None
        for tensor in record.outputs.values():
            if tensor.datatype in FLOATING and tensor.shape[:1] == (*counts,) and tensor.data and not tensor.redacted:
                found[OUTPUT + tensor.name] = (tensor.datatype, _array(tensor))
    except (ValueError, TypeError, OverflowError, KeyError, IndexError):
        return None
    return found


def _array(tensor: Tensor) -> Array:
    if tensor.datatype == "BF16":
        raise ValueError("BF16 has no numbers of numpy")
    values = tensor.values()
    array: Array = np.empty(len(values), DATATYPES[tensor.datatype].dtype)
    if tensor.datatype == "BYTES":
        array[:] = [value.encode() if isinstance(value, str) else value for value in values]
    else:
        array[:] = values
    array = array.reshape(tensor.shape)
    if not array.ndim:
        raise ValueError("a scalar has no rows")
    return array
