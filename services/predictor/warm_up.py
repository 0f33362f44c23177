"""Runs before a version is ready: they tell how fast it is, and whether it may run on the event loop."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from infermesh.errors import Internal, InvalidRequest
from infermesh.tensors import DATATYPES, Array
from services.predictor.inline import Inline
from services.predictor.session import Session
from services.predictor.signature import TensorSpec

__all__ = ["timed_inline"]

WARM_UP_RUNS = 50
WARM_UP_SECONDS = 0.25  # a slow model is not run fifty times to learn that it is slow
MAX_WARM_UP_ELEMENTS = 10_000_000


def timed_inline(session: Session, path: Path, below_s: float) -> Inline | None:
    """Run on ones, in the smallest shapes; returns what may run inline, None: nothing.

    A model that fails on made-up input is loaded all the same: only its own callers know what is valid.
    """
    signature = session.signature
    arrays = {s.name: _ones(s) for s in signature.inputs}
    if sum(a.size for a in arrays.values()) > MAX_WARM_UP_ELEMENTS:
        return None
    times: list[float] = []
    end = time.perf_counter() + WARM_UP_SECONDS
    try:
        while len(times) < WARM_UP_RUNS and (not times or time.perf_counter() < end):
            started = time.perf_counter()
            session.run(arrays, signature.output_names)
            times.append(time.perf_counter() - started)
    except (InvalidRequest, Internal):
        return None
    if len(times) < WARM_UP_RUNS or Inline.depends_on_values(path):
        return None
    tail = sorted(times)[-2]  # the first, cold run is the slowest of fifty, and not what p99 is about
    return Inline(below_s, {name: a.size for name, a in arrays.items()}, signature.strings) if tail < below_s else None


def _ones(spec: TensorSpec) -> Array:
    shape = tuple(1 if d < 0 else d for d in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, "", np.object_)
    return np.ones(shape, DATATYPES[spec.datatype].dtype)
