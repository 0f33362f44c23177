"""Runs before a version is ready: those that its configuration asks for, and those that tell how fast it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from infermesh.errors import MeshError
from infermesh.tensors import DATATYPES, Array
from services.predictor.execution.by_shape import cost_follows_from_shapes
from services.predictor.execution.inline import Inline
from services.predictor.execution.made_up import made_up_input, shape_of
from services.predictor.execution.session import Session
from services.predictor.execution.signature import Signature, TensorSpec
from services.predictor.execution.warm_up_file import rows_of_file
from services.predictor.load_failed import LoadFailed
from services.predictor.model_config import WarmUp, WarmUpInput

__all__ = ["timed_inline", "warm_up", "warm_up_rows"]

WARM_UP_RUNS = 50
WARM_UP_SECONDS = 0.25  # a slow model is not run fifty times to learn that it is slow
MAX_WARM_UP_ELEMENTS = 10_000_000
MAX_INLINE_ROWS = 256


def warm_up(session: Session, wanted: Sequence[WarmUp], folder: Path) -> None:
    """Run each size of batch as often as its configuration says, on every device; files are in `folder`, the model's.

    Blocks. Raises LoadFailed with the reason when the data does not suit the model, or when a run fails.
    """
    signature = session.signature
    for each in wanted:
        for name in each.inputs:
            if name not in signature.input_by_name:
                raise LoadFailed(f"warm_up: no input {name}, expected one of {', '.join(signature.input_by_name)}")
        for rows in each.rows:
            try:
                arrays = warm_up_rows(signature, each, rows, folder)
                signature.check(arrays)
                for device in range(len(session.devices)):
                    for _ in range(each.runs):
                        session.run(arrays, signature.output_names, device=device)
            except MeshError as error:
                raise LoadFailed(f"warm_up with {rows} rows: {error.message}") from None
            except MemoryError:
                raise LoadFailed(f"warm_up with {rows} rows: its data does not fit into memory") from None


def timed_inline(session: Session, path: Path, below_s: float) -> Inline | None:
    """Run on ones, in the smallest shapes and then with ever more rows; returns what may run inline, None: nothing.

    A model that fails on made-up input is loaded all the same: only its own callers know what is valid.
    """
    if session.providers_in_use != ("cpu",) or not cost_follows_from_shapes(path):
        return None
    signature = session.signature
    needed = [spec for spec in signature.inputs if spec.name not in signature.optional]
    has_rows = bool(needed) and all(spec.shape and spec.shape[0] < 0 for spec in needed)
    sizes: dict[str, int] | None = None
    rows = 1
    while rows <= MAX_INLINE_ROWS:
        arrays = {spec.name: _ones(spec, rows) for spec in needed}
        if sum(a.size for a in arrays.values()) > MAX_WARM_UP_ELEMENTS or not _is_faster(session, arrays, below_s):
            break
        sizes = {name: a.size for name, a in arrays.items()}
        if not has_rows:
            break
        rows *= 2
    return Inline(below_s, sizes, signature.strings) if sizes is not None else None


def _is_faster(session: Session, arrays: dict[str, Array], below_s: float) -> bool:
    """Whether nearly all runs take less of this thread's time, and most of them by the clock: a start while others have the cores
    would keep a tiny model off the loop for as long as it is served."""
    walls: list[float] = []
    busy: list[float] = []
    end = time.perf_counter() + WARM_UP_SECONDS
    try:
        while len(walls) < WARM_UP_RUNS and (not walls or time.perf_counter() < end):
            started, began = time.perf_counter(), time.thread_time()
            session.run(arrays, session.signature.output_names)
            busy.append(time.thread_time() - began)
            walls.append(time.perf_counter() - started)
    except MeshError:
        return False
    # The first, cold run is the slowest of fifty, and not what p99 is about.
    return len(walls) == WARM_UP_RUNS and sorted(busy)[-2] < below_s and median(walls) < below_s


def warm_up_rows(signature: Signature, wanted: WarmUp, rows: int, folder: Path) -> dict[str, Array]:
    """The data of one warm-up, for so many rows. Raises LoadFailed when it does not suit the model."""
    draw = np.random.default_rng(rows)  # the same data at every start
    return {
        spec.name: _array(spec, wanted.inputs.get(spec.name, _RANDOM), rows, folder, draw)
        for spec in signature.inputs
        if spec.name in wanted.inputs or spec.name not in signature.optional
    }


def _array(spec: TensorSpec, wanted: WarmUpInput, rows: int, folder: Path, draw: np.random.Generator) -> Array:
    if wanted.file:
        return rows_of_file(spec, wanted.file, rows, folder)
    if wanted.shape is not None:
        free = spec.shape[1:]
        if len(wanted.shape) != len(free) or any(f not in (-1, w) for f, w in zip(free, wanted.shape, strict=True)):
            raise LoadFailed(
                f"warm_up: input {spec.name}: shape: expected the dimensions after the rows of {list(spec.shape)}, got "
                f"{wanted.shape}"
            )
    return made_up_input(spec, shape_of(spec, rows, wanted.shape), draw if wanted.data == "random" else None)


_RANDOM = WarmUpInput()


def _ones(spec: TensorSpec, rows: int) -> Array:
    inner = (1 if d < 0 else d for d in spec.shape[1:])
    shape = (rows if spec.shape[0] < 0 else spec.shape[0], *inner) if spec.shape else ()
    if spec.datatype == "BYTES":
        return np.full(shape, "", np.object_)
    return np.ones(shape, DATATYPES[spec.datatype].dtype)
