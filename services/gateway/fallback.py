"""What answers when all else fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, ForeignStatus, Internal, MeshError, ResourceExhausted, Unavailable
from infermesh.parameters import FALLBACK, MODEL, VARIANT
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer, InferenceService
from services.gateway.answer_cache import AnswerCache
from services.gateway.authenticate import VARIANT_HEADER

__all__ = ["Asked", "Fallback", "Step"]


class Step(Protocol):
    """One thing to try. `name` is what the answer is marked with."""

    name: str

    async def answer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse | None:
        """An answer of the caller's own (it is changed); None: it has none. Raises what it foresees."""
        ...


class Asked:
    """Another variant or model. `model` empty: asked by the name that the caller used."""

    def __init__(self, name: str, service: InferenceService, variant: str, model: str = "") -> None:
        self.name = name
        self._service = service
        self._variant = variant
        self._model = model

    async def answer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse | None:
        response = await self._service.infer(request, call.derive(variant=self._variant))
        response.parameters[VARIANT].string_param = self._variant
        if self._model:
            response.parameters[MODEL].string_param = self._model
            response.model_name = request.model_name
        return response

    def __repr__(self) -> str:
        return self.name


@dataclass(kw_only=True)
class Fallback(Filter):
    """When the call fails for no fault of its caller's, tries the steps in turn; the first that answers does, and is named.

    It helps when what was asked is away, defect, overloaded (before it began) or too slow, while time is left, and not for a call
    that pins a version or variant: that wants this answer or none. `reserve_s` of the call's time is kept for the steps, if it
    has more than twice as much; a step that is asked over the network gets half of what is left while others stand after it. When
    no step answers, the first error is told. With `enforce` off it is told at once, and what would have helped is observed.
    """

    steps: Sequence[Step]
    reserve_s: float
    enforce: bool = True
    observe: Callable[[str, str], None]  # step, answered | failed | none; with enforce off: any, wanted

    def __post_init__(self) -> None:
        self._caches = [step for step in self.steps if isinstance(step, AnswerCache)] if self.enforce else []

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        if request.model_version or call.metadata.get(VARIANT_HEADER):
            return await then(request, call)
        below = call
        if self.enforce and self.reserve_s and 2 * self.reserve_s < call.deadline.remaining():
            below = call.derive(deadline=call.deadline.less(self.reserve_s))
        try:
            response = await then(request, below)
        except MeshError as error:
            if not _can_be_helped(error) or call.deadline.expired:
                raise
            failure = error
        else:
            for cache in self._caches:
                cache.remember(request, call, response)
            return response
        if not self.enforce:
            self.observe("any", "wanted")
            raise failure
        return await self._otherwise(request, call, failure)

    async def _otherwise(self, request: ModelInferRequest, call: Call, failure: MeshError) -> ModelInferResponse:
        for at, step in enumerate(self.steps):
            if call.deadline.expired:
                break
            own = call
            if isinstance(step, Asked) and at + 1 < len(self.steps):
                own = call.derive(deadline=_half(call.deadline))
            try:
                response = await step.answer(request, own)
            except MeshError:
                self.observe(step.name, "failed")
                continue
            if response is None:
                self.observe(step.name, "none")
                continue
            response.parameters[FALLBACK].string_param = step.name
            self.observe(step.name, "answered")
            return response
        raise failure

    def __repr__(self) -> str:
        return f"Fallback({', '.join(map(repr, self.steps))})"


def _half(deadline: Deadline) -> Deadline:
    remaining = deadline.remaining()
    return deadline.at_most(remaining / 2)


def _can_be_helped(error: MeshError) -> bool:
    if isinstance(error, ResourceExhausted):
        return error.rejected  # a queue that is full, a limit of the backend; else the message is too large for it
    return isinstance(error, Unavailable | Internal | DeadlineExceeded | ForeignStatus)
