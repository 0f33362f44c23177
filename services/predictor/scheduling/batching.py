"""Which of the requests that wait run together."""

from __future__ import annotations

import math

from services.predictor.config import BatchingConfig
from services.predictor.execution.signature import Signature, TensorSpec
from services.predictor.load_failed import LoadFailed
from services.predictor.scheduling.batch import Batch
from services.predictor.scheduling.estimate import Estimate
from services.predictor.scheduling.queue import Queue
from services.predictor.scheduling.request import Request

__all__ = ["Batching", "check_batchable"]


class Batching:
    """Forms a batch of what waits when an instance gets free; nothing ever waits for a batch to fill.

    A batch is the first request and those right behind it, up to the first that does not fit: order is kept, no request
    starts after a later one of its level. It fits if its key is the same, and if rows, bytes and the expected end of the batch
    stay within their bounds. `names` are the inputs that every request gives.

    A batch that fails is run in halves, so one caller of bad input costs many runs. Who it is can't be known here; so the next
    batches are of half as many requests, and each that succeeds lets one more in (additive increase, multiplicative decrease:
    Chiu and Jain, 1989).
    """

    def __init__(self, config: BatchingConfig, names: list[str], estimate: Estimate) -> None:
        self._most_members: float = math.inf
        self._max_rows = config.max_rows
        self._max_bytes = config.max_bytes
        self._names = names
        self._estimate = estimate

    def key_of(self, request: Request) -> object:
        """What requests of one batch have in common beside the version: datatypes, inner shapes and outputs asked for. None for
        one that runs alone: it gives an optional input, which need have no rows; its inputs differ in rows, or have none; or it
        is larger than a batch may be."""
        arrays, rows = request.arrays, request.rows
        if not 0 < rows < self._max_rows or request.size_bytes >= self._max_bytes or len(arrays) != len(self._names):
            return None
        key: list[object] = [request.outputs]
        for name in self._names:
            array = arrays[name]
            shape = array.shape
            if not shape or shape[0] != rows:
                return None
            key.append((array.dtype, shape[1:]))
        return key

    def take_with(self, first: Request, queue: Queue) -> list[Request]:
        """The members of the batch that begins with `first`, which is no longer in the queue; the others are taken out of it."""
        members = [first]
        key = first.key
        if key is None:
            return members
        rows, size = first.rows, first.size_bytes
        ends_in = self._allows(first)
        while len(members) < self._most_members and (request := queue.first()) is not None:
            rows += request.rows
            size += request.size_bytes
            if rows > self._max_rows or size > self._max_bytes or request.key != key:
                break
            ends_in = min(ends_in, self._allows(request))
            if self._estimate.seconds(size) > ends_in:
                break
            queue.remove(request)
            members.append(request)
        return members

    def learn(self, batch: Batch) -> None:
        """A batch has ended: how many members the next one may have."""
        if batch.split:
            self._most_members = max(1, min(self._most_members, len(batch.members)) // 2)
        elif batch.runs and self._most_members < math.inf:
            self._most_members += 1
            if self._most_members > self._max_rows:  # each has a row at least
                self._most_members = math.inf

    def _allows(self, request: Request) -> float:
        """Seconds that a batch with this member may take. One that can't be in time even by itself sets no bound: it is run all
        the same, since what is expected may be wrong, and running it alone would make those behind it late too."""
        if request.deadline.at == math.inf:
            return math.inf
        remaining = request.deadline.remaining()
        return remaining if self._estimate.seconds_as_seen(request.size_bytes) <= remaining else math.inf


def check_batchable(signature: Signature, *, unchecked: bool = False) -> None:
    """Raise LoadFailed unless the first dimension of every input and output is free, and, but for `unchecked`, that of no two
    inputs has different names: it is what requests are joined along, and two names are two numbers, not one of rows.

    Inputs that may be left out are not looked at: a request that gives one runs alone."""
    needed = [spec for spec in signature.inputs if spec.name not in signature.optional]
    for kind, spec in (*(("input", s) for s in needed), *(("output", s) for s in signature.outputs)):
        if not _has_rows(spec):
            raise LoadFailed(
                f"batching: {kind} {spec.name} has shape {list(spec.shape)}; to be batched, the first dimension of every input "
                "and output has to be the number of rows, -1; turn batching off for this model"
            )
    names: dict[str, str] = {}
    for spec in needed:
        if (name := signature.first_dimensions.get(spec.name)) is not None:
            names.setdefault(name, spec.name)
    if len(names) > 1 and not unchecked:
        which = ", ".join(f"{of} of input {spec}" for of, spec in names.items())
        raise LoadFailed(
            f"batching: first dimensions have different names: {which}; to be batched, they have to be the same number of rows; "
            "turn batching off for this model, or set batching.unchecked if they are"
        )


def _has_rows(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape[0] < 0
