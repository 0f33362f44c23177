"""Large requests, run in slices so that others have their turn between them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

import numpy as np

from infermesh.call import Call
from infermesh.tensors import Array
from services.predictor.scheduling.instances import Instances

__all__ = ["Slices"]

_log = logging.getLogger(__name__)


class Slices:
    """Runs requests of more than `rows` rows piece by piece; each piece waits its turn in the queue of its level.

    So what is urgent waits for a slice and not for all of a large request, and large requests of one level take turns. The first
    slice is admitted like any request, the others have been accepted with it. `names` are the inputs that every request gives;
    one with others, or whose inputs differ in rows, runs whole. `rows` 0: each does.

    A model has to answer a row the same whatever is run with it. `independent` tells, is called in a thread when the first large
    request comes, and its answer is kept.
    """

    def __init__(
        self, what: str, instances: Instances, names: list[str], rows: int, independent: Callable[[], bool]
    ) -> None:
        self.above: float = rows or math.inf
        """Requests of more rows are for `run`."""
        self._what = what
        self._instances = instances
        self._names = names
        self._rows = rows
        self._ask = independent
        self._independent: bool | None = None

    async def run(self, arrays: dict[str, Array], outputs: list[str], rows: int, level: int, call: Call) -> list[Array]:
        """As `Instances.run`, which see for the errors. A slice that fails fails the request."""
        if not await self._may_be_cut(arrays, rows):
            return await self._instances.run(arrays, outputs, rows, level, call)
        whole: list[Array] = []
        for start in range(0, rows, self._rows):
            end = min(start + self._rows, rows)
            some = {name: array[start:end] for name, array in arrays.items()}
            values = await self._instances.run(some, outputs, end - start, level, call, follows=start > 0)
            if not start:  # into their places at once: an answer is never there twice
                whole = [np.empty((rows, *value.shape[1:]), value.dtype) for value in values]
            if any(v.shape != (end - start, *w.shape[1:]) for v, w in zip(values, whole, strict=True)):
                self._independent = False
                _log.warning("model version runs large requests whole", extra={"model_version": self._what})
                return await self._instances.run(arrays, outputs, rows, level, call, follows=True)
            for into, value in zip(whole, values, strict=True):
                into[start:end] = value
        return whole

    async def _may_be_cut(self, arrays: dict[str, Array], rows: int) -> bool:
        if len(arrays) != len(self._names):
            return False
        for name in self._names:
            array = arrays.get(name)
            if array is None or not array.ndim or len(array) != rows:
                return False
        if self._independent is None:
            self._independent = await asyncio.to_thread(self._ask)
        return self._independent
