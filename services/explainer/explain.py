"""One explanation, from a checked request to its attributions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from infermesh.call import Call
from infermesh.errors import InvalidRequest, Unavailable, quoted
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService
from infermesh.tensors import Array, read_inputs, uses_raw
from services.explainer.answer import Explanation, check_size
from services.explainer.ask import Ask
from services.explainer.background import Background
from services.explainer.backgrounds import Backgrounds
from services.explainer.base_values import BaseValues, digest
from services.explainer.classes import ALL, Classes, class_names
from services.explainer.config import ExplainerConfig
from services.explainer.estimate import Floats
from services.explainer.groups import grouped
from services.explainer.masked_rows import MaskedRows
from services.explainer.methods.choose import check_method
from services.explainer.methods.run import Graphs, Task, no_graphs, run
from services.explainer.paces import Paces
from services.explainer.parameters import Parameters, for_the_model, wrong
from services.explainer.players import Players
from services.explainer.reasons import Reasons, subject_of, templates_of
from services.explainer.signature import Signature, TensorSpec
from services.explainer.threads import Threads
from services.explainer.value import Value

__all__ = ["Explain", "Observe"]

MOST_DIMENSIONS = 32  # a tensor of more is refused before it is read, and their product could take seconds
READ_ELEMENTS = 10  # what reading one by one costs, in elements of arithmetic
NAME_ELEMENTS = 10  # and making names
LONG_ELEMENTS = 500_000  # laying out rows of so many values takes a fifth of a second

Observe = Callable[[str, str, int, int], None]  # model, method, ModelInfers, rows


class Explain:
    """Explains rows of the models of a backend: first what the model says of them and of the background, then the coalitions.

    What outlives an explanation is bounded: base values, the models' graphs and their paces. `close` it when it is asked no more.
    """

    def __init__(
        self,
        backend: InferenceService,
        backgrounds: Backgrounds,
        config: ExplainerConfig,
        *,
        observe: Observe,
        graphs: Graphs = no_graphs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._backgrounds = backgrounds
        self._config = config
        self._observe = observe
        self._clock = clock
        self._threads = Threads(config.asking.threads)
        self._in_flight = asyncio.Semaphore(config.asking.in_flight)
        self._base_values = BaseValues()
        self._graphs = graphs
        self._paces = Paces()

    @property
    def threads(self) -> Threads:
        """Where arithmetic goes that is too long for the event loop."""
        return self._threads

    async def signature(self, model: str, version: str, call: Call) -> Signature:
        """What the backend says of the model; its errors are the caller's."""
        return Signature.of(
            model, await self._backend.metadata(pb.ModelMetadataRequest(name=model, version=version), call)
        )

    async def read(self, request: pb.ModelInferRequest) -> Mapping[str, Array]:
        """The inputs of a request, as `read_inputs` reads them, of no more rows than allowed: that is seen by their shapes, since
        elements may have to be read one by one. Many of those are read in a thread."""
        most = self._config.limits.rows
        for tensor in request.inputs:
            if tensor.shape and tensor.shape[0] > most:
                raise InvalidRequest(
                    f"model {quoted(request.model_name)}: input {quoted(tensor.name)}: expected at most {most} rows to explain, "
                    f"got {tensor.shape[0]}",
                    reason="TOO_MANY_ROWS",
                )
        return await self._threads.run(READ_ELEMENTS * _read_singly(request), read_inputs, request)

    async def __call__(
        self,
        request: pb.ModelInferRequest,
        signature: Signature,
        arrays: Mapping[str, Array],
        parameters: Parameters,
        call: Call,
    ) -> AsyncGenerator[Explanation, None]:
        """Explanations of the request's rows, the last one the best; the request's parameters are known to be well-formed, its
        arrays to fit the model. Raises InvalidRequest, FailedPrecondition, ResourceExhausted, DeadlineExceeded, Unavailable, and
        what the backend raises. Closing and cancelling end all asking."""
        signature.check_rows()
        output = signature.output(parameters.output)
        row_shapes = {name: array.shape[1:] for name, array in arrays.items()}
        players = self._players(request, signature, row_shapes, parameters)
        background = self._backgrounds.find(signature, row_shapes, parameters.background)
        rows = len(arrays[signature.inputs[0].name])
        check_method(request, parameters, len(players), self._config.methods)
        if parameters.classes == ALL and output.width >= 0:
            self._check_size(request, rows, players, output.width)  # before anybody works for it
        table = await self._table(signature, players, background, arrays, call)
        ask = Ask(
            self._backend,
            signature.model,
            request.model_version,
            output,
            for_the_model(request),
            self._config.asking,
            self._in_flight,
            self._threads,
            call,
            self._config.backend,
        )
        value = Value(table, background.weights, ask, self._threads)
        task: Task | None = None
        try:
            known = digest(background, for_the_model(request))
            base, predictions = await value.ends(self._base_values, known, signature.newest)
            pace = self._paces.find(signature.model, ask.version)
            signature = await self._answering(signature, request.model_version, ask.version, call)
            was, players = players, self._players(request, signature, row_shapes, parameters)
            if not _same_columns(players, was):  # the coalitions are to be of the groups of the version that answered
                check_method(request, parameters, len(players), self._config.methods)
                value.rows = await self._table(signature, players, background, arrays, call)
            if parameters.classes == ALL:  # before each column gets a name
                self._check_size(request, rows, players, ask.width)
            classes, columns = await self._threads.run(
                NAME_ELEMENTS * ask.width, _picked, request, signature, output, parameters.classes, predictions
            )
            self._check_size(request, rows, players, len(classes))
            subject = subject_of(signature, classes, columns, ask.width)
            reasons = Reasons(arrays, players, templates_of(signature), parameters.reasons, parameters.adverse, subject)
            task = Task(value, ask, columns, base, predictions, arrays, background, players, parameters, call, pace)
            async with aclosing(run(task, self._config, self._graphs, self._threads, self._clock)) as found:
                async for one in found:
                    yield Explanation(
                        estimate=one.estimate,
                        base=one.base,
                        predictions=one.predictions,
                        features=players.names,
                        classes=classes,
                        model=signature.model,
                        version=ask.version,
                        method=task.method,
                        seed=parameters.seed,
                        rows_sent=ask.rows_sent,
                        reasons=reasons,
                        link=one.link,
                        told=one.told,
                    )
            self._paces.learn(signature.model, ask.version, task.seconds, task.composites)
        finally:
            self._observe(request.model_name, task.method if task else parameters.method, ask.asked, ask.rows_sent)

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.close()

    def _players(
        self,
        request: pb.ModelInferRequest,
        signature: Signature,
        row_shapes: Mapping[str, tuple[int, ...]],
        parameters: Parameters,
    ) -> Players:
        features = Players.of(signature, row_shapes, self._config.limits.features)
        return grouped(features, parameters.groups, signature, partial(wrong, request, "groups"))

    async def _table(
        self, signature: Signature, players: Players, background: Background, arrays: Mapping[str, Array], call: Call
    ) -> MaskedRows:
        of = (signature.inputs, players, background.arrays, arrays)
        elements = len(arrays[signature.inputs[0].name]) * len(players)
        if elements < LONG_ELEMENTS:
            return await self._threads.run(elements, MaskedRows, *of)
        late = f"model {quoted(signature.model)}: the deadline passed while the rows to explain were laid out"
        return await self._threads.run_long(lambda between: MaskedRows(*of, between), call.deadline, late)

    def _check_size(self, request: pb.ModelInferRequest, rows: int, players: Players, classes: int) -> None:
        check_size(request, rows, len(players), classes, self._config.server.max_message)

    async def _answering(self, signature: Signature, asked: str, answered: str, call: Call) -> Signature:
        """The signature of the version that answered: the one that was read, unless a label or a new version made it another."""
        if answered in (asked, "") or (not asked and answered == signature.newest):
            return signature
        other = await self.signature(signature.model, answered, call)
        if not other.same_tensors(signature):
            raise Unavailable(
                f"model {quoted(signature.model)}: version {answered} came while it was being explained, and takes or gives "
                "something else than the one before; ask again",
                reason="VERSION_CHANGED",
            )
        return other


def _same_columns(one: Players, other: Players) -> bool:
    """Whether the same columns are known together."""
    return all(np.array_equal(of, other.of_column[name]) for name, of in one.of_column.items())


def _read_singly(request: pb.ModelInferRequest) -> int:
    """At most how many elements of a request become Python objects; raw numbers are viewed as they are."""
    raw = uses_raw(request)
    return sum(max(0, prod(t.shape[:MOST_DIMENSIONS])) for t in request.inputs if not raw or t.datatype == "BYTES")


def _picked(
    request: pb.ModelInferRequest, signature: Signature, output: TensorSpec, classes: Classes, predictions: Floats
) -> tuple[list[str], NDArray[np.intp] | None]:
    """The names of the classes that are explained, and their columns; None: all."""
    names = class_names(signature, output, predictions.shape[1])
    columns = classes.pick(names, predictions, partial(wrong, request, "classes"))
    return names if columns is None else [names[column] for column in columns], columns
