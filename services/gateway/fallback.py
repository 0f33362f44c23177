"""What answers when all else fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, ForeignStatus, Internal, MeshError, ResourceExhausted, Unavailable
from infermesh.parameters import BY_FALLBACK, FALLBACK, MODEL, VARIANT
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer, InferenceService
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
        self.variant = variant
        self._service = service
        self._model = model

    async def answer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse | None:
        response = await self._service.infer(request, call.derive(variant=self.variant))
        response.parameters[VARIANT].string_param = self.variant
        if self._model:
            response.parameters[MODEL].string_param = self._model
            response.model_name = request.model_name
        return response

    def __repr__(self) -> str:
        return self.name


def _nobody(variant: str, code: str, seconds: float) -> None:
    """Nobody counts what is covered."""


@dataclass(kw_only=True)
class Fallback(Filter):
    """When the call fails for no fault of its caller's, tries the steps in turn; the first that answers does, and is named.

    It helps when what was asked is away, defect, overloaded (before it began) or too slow, while time is left, and not for a call
    that pins a version or variant: that wants this answer or none. `reserve_s` of the call's time is kept for the steps, if it
    has more than twice as much; a step that is asked over the network gets half of what is left while others stand after it, and
    the variant that has just failed is no step. When no step answers, the first error is told. With `enforce` off it is told at
    once, and what would have helped is observed. `failed` is told of each failure that an answer covers: the variant that was
    picked has not answered, whatever its caller got.
    """

    steps: Sequence[Step]
    reserve_s: float
    enforce: bool = True
    observe: Callable[[str, str], None]  # step, answered | failed | none; with enforce off: any, wanted
    failed: Callable[[str, str, float], None] = _nobody  # variant, code, seconds
    clock: Callable[[], float] = time.monotonic

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        if request.model_version or call.metadata.get(VARIANT_HEADER):
            return await then(request, call)
        below = call
        if self.enforce and self.reserve_s and 2 * self.reserve_s < call.deadline.remaining():
            below = call.derive(deadline=call.deadline.less(self.reserve_s))
        began = self.clock()
        try:
            return await then(request, below)
        except MeshError as error:
            if not _can_be_helped(error) or call.deadline.expired:
                raise
            failure = error
        if not self.enforce:
            self.observe("any", "wanted")
            raise failure
        took_s = self.clock() - began
        response = await self._otherwise(request, call, failure)
        self.failed(failure.variant, failure.code, took_s)
        return response

    async def _otherwise(self, request: ModelInferRequest, call: Call, failure: MeshError) -> ModelInferResponse:
        if (journal := call.journal) is not None:
            journal.fallback_for = failure.code, failure.reason
        for at, step in enumerate(self.steps):
            if call.deadline.expired:
                break
            own = call
            if isinstance(step, Asked) and step.variant == failure.variant:
                continue
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
            if call.trailing is not None:
                call.trailing[VARIANT_HEADER] = step.variant if isinstance(step, Asked) else BY_FALLBACK
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
