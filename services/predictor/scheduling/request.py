"""One caller's inputs on their way through the queue and an instance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from infermesh.deadline import Deadline
from infermesh.tensors import Array

__all__ = ["Request"]

MEASURED_TEXTS = 4096  # of one array; their mean length stands for the rest


class Request:
    """Lives from when it comes until `answer` is done: with the outputs, with an error, or cancelled.

    `level` counts from 0, the first to run. `came` and `began` are of `time.perf_counter`; `leave` takes it out of the batch
    that it was put into, None: it waits. `values` and `error` are written by the thread that runs it, and read after that.
    `follows`: it is a later slice of a request that was admitted, and counted, with its first one.
    """

    __slots__ = (
        "answer",
        "arrays",
        "began",
        "came",
        "deadline",
        "error",
        "follows",
        "key",
        "leave",
        "level",
        "outputs",
        "rows",
        "size_bytes",
        "values",
    )

    def __init__(
        self,
        arrays: dict[str, Array],
        outputs: list[str],
        rows: int,
        level: int,
        deadline: Deadline,
        answer: asyncio.Future[list[Array]],
        came: float,
        *,
        follows: bool = False,
    ) -> None:
        self.arrays = arrays
        self.outputs = outputs
        self.rows = rows
        self.level = level
        self.deadline = deadline
        self.answer = answer
        self.came = came
        self.follows = follows
        self.began = came
        self.key: object = None  # requests of equal keys may share a batch; None: this one runs alone
        self.leave: Callable[[Request], None] | None = None
        self.values: list[Array] | None = None
        self.error: Exception | None = None
        self.size_bytes = 0
        for array in arrays.values():
            self.size_bytes += array.nbytes if array.dtype.kind != "O" else _size_of_texts(array)


def _size_of_texts(array: Array) -> int:
    texts = array.ravel()[:MEASURED_TEXTS].tolist()
    return array.nbytes + int(sum(map(len, texts)) / max(1, len(texts)) * array.size)
