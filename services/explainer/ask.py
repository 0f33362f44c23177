"""Asks one version of a model about many rows, in few large ModelInfers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from infermesh.call import Call
from infermesh.errors import (
    FailedPrecondition,
    Internal,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
    Unavailable,
    quoted,
)
from infermesh.parameters import PRIORITY
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService
from infermesh.tensors import DATATYPES, Array, read_outputs
from services.explainer.config import AskingConfig
from services.explainer.estimate import Floats
from services.explainer.masked_rows import MaskedRows
from services.explainer.signature import TensorSpec
from services.explainer.threads import Threads
from services.explainer.together import together

__all__ = ["Ask"]

MOST_VALUES = 2**24  # of one question, in elements: 128 MiB. An explanation has two under way


class Ask:
    """One explanation's questions to the model.

    The version that answers the first ModelInfer is pinned: it is written into all others, and an answer of another one ends
    the explanation with Unavailable. `version` is what to ask for until then. Questions are of low priority: predictions overtake
    them. `columns`, once it is set, picks columns of the
    output. `in_flight` is shared by all explanations, each of which has no more under way than its own share. More values than
    can be held are refused with ResourceExhausted, as soon as the output's width is known.
    """

    def __init__(
        self,
        backend: InferenceService,
        model: str,
        version: str,
        output: TensorSpec,
        parameters: Mapping[str, pb.InferParameter],
        config: AskingConfig,
        in_flight: asyncio.Semaphore,
        threads: Threads,
        call: Call,
        backend_name: str = "backend",
    ) -> None:
        self.model = model
        self.version = version
        self.output = output
        self.columns: NDArray[np.intp] | None = None
        self.width = output.width
        self.rows_sent = 0
        self.asked = 0
        self._backend = backend
        self._backend_name = backend_name
        self._parameters = {**parameters, PRIORITY: pb.InferParameter(uint64_param=config.priority)}
        self._config = config
        self._in_flight = in_flight
        self._own_in_flight = asyncio.Semaphore(config.in_flight_each)
        self._threads = threads
        self._call = call
        self._pinned = False

    @property
    def max_rows(self) -> int:
        """Rows of the largest ModelInfer."""
        return self._config.max_rows

    async def __call__(self, rows: MaskedRows, count: int, contents: Callable[[slice], list[bytes]]) -> Floats:
        """The output for `count` rows, [count, columns]; `contents` makes the raw contents of some of them, in a thread."""
        size = self._rows_per_message(rows)
        chunks = [slice(at, min(at + size, count)) for at in range(0, count, size)]
        self._check_held(count)
        if self._pinned:
            answers = await together(self._chunk(rows, chunk, contents) for chunk in chunks)
        else:  # the first goes alone: its answer says which version the others are to ask for
            answers = [await self._chunk(rows, chunks[0], contents)]
            self._check_held(count)
            answers += await together(self._chunk(rows, chunk, contents) for chunk in chunks[1:])
        return np.concatenate(answers)

    def _rows_per_message(self, rows: MaskedRows) -> int:
        answer_bytes = max(self.width, 1) * DATATYPES[self.output.datatype].size
        return max(1, min(self._config.max_rows, self._config.max_bytes // max(rows.row_bytes, answer_bytes, 1)))

    def _check_held(self, count: int) -> None:
        columns = self.width if self.columns is None else len(self.columns)
        if count * columns > MOST_VALUES:
            raise ResourceExhausted(
                f"model {quoted(self.model)}: output {quoted(self.output.name)}: of {columns} columns expected at most "
                f"{MOST_VALUES // columns} rows at a time, those of the background among them, got {count}; ask for fewer rows",
                reason="OUTPUT_TOO_LARGE",
            )

    async def _chunk(self, rows: MaskedRows, chunk: slice, contents: Callable[[slice], list[bytes]]) -> Floats:
        count = chunk.stop - chunk.start
        async with self._own_in_flight, self._in_flight:  # contents exist only for what is under way
            raw = await self._threads.run(count * sum(map(_elements, rows.row_shapes)), contents, chunk)
            request = pb.ModelInferRequest(
                model_name=self.model, model_version=self.version, parameters=self._parameters, raw_input_contents=raw
            )
            for spec, row_shape in zip(rows.specs, rows.row_shapes, strict=True):
                request.inputs.add(name=spec.name, datatype=spec.datatype, shape=(count, *row_shape))
            request.outputs.add(name=self.output.name)
            self.asked += 1
            self.rows_sent += count
            response = await self._answer(request)
        self._pin(response.model_version)
        return await self._threads.run(count * max(self.width, 1), self._read, response, count)

    async def _answer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        try:
            return await self._backend.infer(request, self._call)
        except NotFound as error:
            if not self._pinned:
                raise
            raise self._changed(f"it is gone now ({error.message})") from None

    def _pin(self, version: str) -> None:
        if not self._pinned:
            self.version = version or self.version
            self._pinned = True
        elif version not in (self.version, ""):
            raise self._changed(f"version {quoted(version)} answered")

    def _changed(self, what: str) -> Unavailable:
        return Unavailable(
            f"model {quoted(self.model)}: version {self.version} was being explained, and {what}; ask again",
            reason="VERSION_CHANGED",
        )

    def _read(self, response: pb.ModelInferResponse, count: int) -> Floats:
        where = f"model {quoted(self.model)} version {self.version}: output {quoted(self.output.name)}"
        try:
            array = read_outputs(response)[self.output.name]
            datatype = {tensor.name: tensor.datatype for tensor in response.outputs}[self.output.name]
        except (InvalidRequest, KeyError) as error:
            raise Internal(f"{where}: the answer can't be read: {error}", reason="BACKEND_GARBAGE") from None
        if datatype != self.output.datatype:
            raise Internal(
                f"{where}: {self._backend_name} answered {datatype}, its metadata say {self.output.datatype}",
                reason="BACKEND_GARBAGE",
            )
        width = array.size // max(count, 1)
        if array.ndim < 1 or len(array) != count or self.width not in (-1, width):
            expected = [count, *(self.output.shape[1:] if self.width < 0 or array.ndim < 2 else [self.width])]
            raise FailedPrecondition(
                f"{where}: expected {expected}, a row for each row that was asked about, got {list(array.shape)[:16]}",
                reason="OUTPUT_SHAPE",
            )
        self.width = width
        values = _as_fp64(array, datatype).reshape(count, width)
        if not np.isfinite(values).all():
            kind = "NaN" if np.isnan(values).any() else "an infinity"
            raise FailedPrecondition(
                f"{where}: the model answered {kind}, and what is no number can't be divided among features",
                reason="OUTPUT_NOT_FINITE",
            )
        return values if self.columns is None else values[:, self.columns]


def _elements(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _as_fp64(array: Array, datatype: str) -> Floats:
    if datatype == "BF16":  # the upper half of an FP32
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)
