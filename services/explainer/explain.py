"""One explanation, from a checked request to its attributions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, InvalidRequest, ResourceExhausted, Unavailable, quoted
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService
from infermesh.tensors import Array, read_inputs, uses_raw
from services.explainer.answer import Explanation, answer_bytes
from services.explainer.ask import Ask
from services.explainer.backgrounds import Backgrounds
from services.explainer.classes import ALL, Classes
from services.explainer.config import ExplainerConfig
from services.explainer.estimate import Estimate, Floats
from services.explainer.exact import exact
from services.explainer.masked_rows import MaskedRows
from services.explainer.methods import Chosen, choose
from services.explainer.parameters import Parameters, for_the_model, wrong
from services.explainer.permutation import Plan, permutation
from services.explainer.players import Players
from services.explainer.signature import CLASSES, Signature, TensorSpec
from services.explainer.threads import Threads
from services.explainer.value import Value

__all__ = ["Explain", "Observe"]

MOST_DIMENSIONS = 32  # a tensor of more is refused before it is read, and their product could take seconds
READ_ELEMENTS = 10  # what reading one by one costs, in elements of arithmetic
NAME_ELEMENTS = 10  # and making names

Observe = Callable[[str, str, int, int], None]  # model, method, ModelInfers, rows


class Explain:
    """Explains rows of the models of a backend: first what the model says of them and of the background, then the coalitions.

    Nothing of one explanation outlives it. `close` it when it is asked no more.
    """

    def __init__(
        self,
        backend: InferenceService,
        backgrounds: Backgrounds,
        config: ExplainerConfig,
        *,
        observe: Observe,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._backgrounds = backgrounds
        self._config = config
        self._observe = observe
        self._clock = clock
        self._threads = Threads(config.asking.threads)
        self._in_flight = asyncio.Semaphore(config.asking.in_flight)

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
    ) -> Explanation:
        """The explanation of the request's rows; the request's parameters are known to be well-formed, its arrays to fit the
        model. Raises InvalidRequest, FailedPrecondition, ResourceExhausted, DeadlineExceeded, Unavailable, and what the backend
        raises. Cancelling ends all asking."""
        signature.check_rows()
        output = signature.output(parameters.output)
        row_shapes = {name: array.shape[1:] for name, array in arrays.items()}
        players = Players.of(signature, row_shapes, self._config.limits.features)
        background = self._backgrounds.find(signature, row_shapes, parameters.background)
        rows = len(arrays[signature.inputs[0].name])
        chosen = choose(request, parameters, len(players), rows, len(background), self._config.methods)
        if parameters.classes == ALL and output.width >= 0:
            self._check_answer(request, rows, len(players), output.width)  # before anybody works for it
        table = await self._threads.run(
            rows * len(players), MaskedRows, signature.inputs, players, background.arrays, arrays
        )
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
        try:
            base, predictions = await value.ends()
            signature = await self._answering(signature, request.model_version, ask.version, call)
            players = Players.of(signature, row_shapes, self._config.limits.features)
            if parameters.classes == ALL:  # before each column gets a name
                self._check_answer(request, rows, len(players), ask.width)
            classes, columns = await self._threads.run(
                NAME_ELEMENTS * ask.width, _picked, request, signature, output, parameters.classes, predictions
            )
            if columns is not None:
                ask.columns = columns
                base, predictions = base[columns], predictions[:, columns]
            self._check_answer(request, rows, len(players), len(classes))
            if chosen.method == "exact":
                estimate = await exact(value, base, predictions, len(players), self._threads)
            else:
                estimate = await self._sampled(
                    chosen, value, base, predictions, len(players), parameters, signature, call
                )
        finally:
            self._observe(request.model_name, chosen.method, ask.asked, ask.rows_sent)
        return Explanation(
            estimate=estimate,
            base=base,
            predictions=predictions,
            features=players.names,
            classes=classes,
            model=signature.model,
            version=ask.version,
            method=chosen.method,
            seed=parameters.seed,
            rows_sent=ask.rows_sent,
        )

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.close()

    async def _sampled(
        self,
        chosen: Chosen,
        value: Value,
        base: Floats,
        predictions: Floats,
        players: int,
        parameters: Parameters,
        signature: Signature,
        call: Call,
    ) -> Estimate:
        reserve = min(self._config.deadline.reserve, call.deadline.remaining() / 5)
        plan = Plan(chosen.pairs, parameters.seed, call.deadline.less(reserve), parameters.tolerance)
        best: Estimate | None = None
        async for estimate in permutation(value, base, predictions, players, plan, self._threads, self._clock):
            best = estimate
        if best is None:
            rows = len(predictions)
            raise DeadlineExceeded(
                f"model {quoted(signature.model)}: the time was not enough for one pair of permutations of {players} features "
                f"for {rows} row{'s' * (rows != 1)} against {value.rows.backgrounds} background rows; ask with more time or "
                "fewer rows"
            )
        return best

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

    def _check_answer(self, request: pb.ModelInferRequest, rows: int, features: int, classes: int) -> None:
        size, limit = answer_bytes(rows, features, classes), self._config.server.max_message
        if size > limit:
            raise ResourceExhausted(
                f"model {quoted(request.model_name)}: the answer for {rows} rows, {features} features and {classes} classes "
                f"would have {size >> 20} MiB, the limit is {limit >> 20} MiB; ask for fewer rows or classes",
                reason="ANSWER_TOO_LARGE",
            )


def _read_singly(request: pb.ModelInferRequest) -> int:
    """At most how many elements of a request become Python objects; raw numbers are viewed as they are."""
    raw = uses_raw(request)
    return sum(max(0, prod(t.shape[:MOST_DIMENSIONS])) for t in request.inputs if not raw or t.datatype == "BYTES")


def _picked(
    request: pb.ModelInferRequest, signature: Signature, output: TensorSpec, classes: Classes, predictions: Floats
) -> tuple[list[str], NDArray[np.intp] | None]:
    """The names of the classes that are explained, and their columns; None: all."""
    names = _classes(signature, output, predictions.shape[1])
    columns = classes.pick(names, predictions, partial(wrong, request, "classes"))
    return names if columns is None else [names[column] for column in columns], columns


def _classes(signature: Signature, output: TensorSpec, width: int) -> list[str]:
    named = signature.names(CLASSES, width)
    if named is not None:
        return named
    return [output.name] if width == 1 else [f"{output.name}[{index}]" for index in range(width)]
