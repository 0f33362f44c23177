"""Whether a model answers a row the same, whatever other rows are run with it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from infermesh.errors import MeshError
from infermesh.tensors import Array
from services.predictor.execution.made_up import made_up, shape_of
from services.predictor.execution.session import Session
from services.predictor.execution.signature import Signature
from services.predictor.execution.warm_up import warm_up_rows
from services.predictor.load_failed import LoadFailed
from services.predictor.model_config import ModelSettings, WarmUp
from services.predictor.scheduling.batching import check_batchable

__all__ = ["check_rows_independent", "rows_are_independent"]

ROWS = 4
MADE_UP = 3  # sets of rows, each with other values
MOST_ELEMENTS = 10_000_000

# Sums in another order, as kernels for another number of rows make them, differ by some roundings for each layer; a mean over
# the batch, or a softmax over the wrong axis, changes the first digit. Relative to the largest value of the output.
TOLERANCE = {"FP16": 2e-2, "BF16": 5e-2}
OTHER_TOLERANCE = 1e-3

_log = logging.getLogger(__name__)


def check_rows_independent(session: Session, model: str, version: int, settings: ModelSettings, folder: Path) -> None:
    """Run rows together and singly, and raise LoadFailed with the output that differs. Rows are those of the model's configured
    warm-ups, with files in `folder`, and made-up ones.

    Floats may differ by the tolerance above, everything else not at all. It is a check and no proof: rows that other data would
    let influence each other are not found. Raises LoadFailed too when none of the data can be run singly, or all of its rows are
    the same, so that nothing was checked; a warning is logged instead where `batching.unchecked` is set.
    """
    checked = False
    reasons: list[str] = []
    for arrays in _data(session.signature, settings.warm_up, folder):
        reason = _not_checked(session, arrays)
        checked = checked or not reason
        reasons.append(reason)
    if checked:
        return
    why = next(filter(None, reasons), "it has no inputs")
    if not settings.batching.unchecked:
        raise LoadFailed(
            f"batching: whether rows influence each other could not be checked: {why}; give data in warm_up that the model "
            "accepts, turn batching off for this model, or set batching.unchecked if its rows are independent"
        )
    _log.warning(
        "model version is batched without a check that its rows do not influence each other",
        extra={"model": model, "version": str(version), "reason": why},
    )


def rows_are_independent(session: Session, model: str, version: int, settings: ModelSettings, folder: Path) -> bool:
    """The same as an answer, for a model that nobody wants batched; no where it can't be told."""
    try:
        check_batchable(session.signature, unchecked=settings.batching.unchecked)
        check_rows_independent(session, model, version, settings, folder)
    except LoadFailed as error:
        _log.info(
            "model version runs large requests whole",
            extra={"model": model, "version": str(version), "reason": str(error)},
        )
        return False
    return True


def _data(signature: Signature, warm_ups: Sequence[WarmUp], folder: Path) -> Iterator[dict[str, Array]]:
    """Sets of `ROWS` rows, without optional inputs: requests that give one are not batched."""
    for each in warm_ups:
        arrays = warm_up_rows(signature, each, ROWS, folder)
        yield {name: array for name, array in arrays.items() if name not in signature.optional}
    if sum(math.prod(shape_of(spec, ROWS)) for spec in signature.inputs) <= MOST_ELEMENTS:
        for seed in range(MADE_UP):
            yield made_up(signature, ROWS, seed)


def _not_checked(session: Session, arrays: dict[str, Array]) -> str:
    """Why this data shows nothing; empty: rows run together are those run singly. Raises LoadFailed if they are not."""
    names = session.signature.output_names
    if not any((array[1:] != array[:1]).any() for array in arrays.values()):
        return "all rows of the data are the same"
    try:
        singly = [session.run({n: a[at : at + 1] for n, a in arrays.items()}, names) for at in range(ROWS)]
    except MeshError as error:
        return error.message
    try:
        together = session.run(arrays, names)
    except MeshError as error:
        raise LoadFailed(
            f"batching: {ROWS} rows fail together, which run singly: {error.message}; turn batching off for this model"
        ) from None
    for at, name in enumerate(names):
        datatype = session.signature.output_by_name[name].datatype
        difference = _difference(together[at], [row[at] for row in singly], datatype)
        if difference:
            raise LoadFailed(
                f"batching: output {name} of {ROWS} rows run together is not that of the rows run singly: {difference}; rows "
                "influence each other, turn batching off for this model"
            )
    return ""


def _difference(together: Array, singly: list[Array], datatype: str) -> str:
    shapes = [together.shape[:1], *(row.shape[:1] for row in singly)]
    if shapes != [(len(singly),), *([(1,)] * len(singly))]:
        return f"shapes {list(together.shape)} and {list(singly[0].shape)}"
    if any(row.shape[1:] != together.shape[1:] for row in singly):
        return f"shapes {list(together.shape)} and {[list(row.shape) for row in singly]}"
    apart = np.concatenate(singly)
    if datatype == "BF16":
        together, apart = _widened(together), _widened(apart)
    if together.dtype.kind != "f":
        return "" if np.array_equal(together, apart) else "values differ"
    one, other = together.astype(np.float64), apart.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return "one has NaN or infinity where the other has not"
    largest = float(np.max(np.abs(other[finite]), initial=0.0))
    difference = float(np.max(np.abs(one[finite] - other[finite]), initial=0.0))
    allowed = TOLERANCE.get(datatype, OTHER_TOLERANCE)
    return "" if difference <= allowed * largest else f"by up to {difference:.3g}, where values are up to {largest:.3g}"


def _widened(bits: Array) -> Array:
    return np.asarray((bits.astype(np.uint32) << 16).view(np.float32))
