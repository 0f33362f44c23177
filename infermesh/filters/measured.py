"""Counts and times calls."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, Internal, MeshError
from infermesh.parameters import BY_FALLBACK, FALLBACK, VARIANT
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer

__all__ = ["Measured"]

CANCELLED = "CANCELLED"

Observe = Callable[[str, str, str, str, float], None]  # model, version, variant, code, seconds


@dataclass
class Measured(Filter):
    """Observes every call once, with the code that it ended with; CANCELLED when the caller went away before its deadline.

    `label` maps the model that was asked for to a name that is safe as a label: the empty string for what nobody knows. The
    version and variant are those that answered, `fallback` for what a fallback answered: it is no success of the variant that was
    picked, whose failure the fallback tells. Of a failure it is the variant that was picked, if it came so far.
    """

    observe: Observe
    label: Callable[[str], str]
    clock: Callable[[], float] = time.perf_counter

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        clock = self.clock
        started = clock()
        try:
            response = await then(request, call)
        except MeshError as error:
            self._failed(request, call, error, error.code, clock() - started)
            raise
        except CancelledError as error:  # by grpc too, at the deadline, when that is sooner there than where we keep it
            code = DeadlineExceeded.code if call.deadline.expired else CANCELLED
            self._failed(request, call, error, code, clock() - started)
            raise
        except Exception as error:
            self._failed(request, call, error, Internal.code, clock() - started)
            raise
        took = clock() - started
        variant = call.variant
        if not variant and (parameters := response.parameters):
            if FALLBACK in parameters:
                variant = BY_FALLBACK
            elif VARIANT in parameters:
                variant = parameters[VARIANT].string_param
        self.observe(self.label(request.model_name), response.model_version, variant, "OK", took)
        return response

    def _failed(self, request: ModelInferRequest, call: Call, error: BaseException, code: str, took_s: float) -> None:
        variant = call.variant or getattr(error, "variant", "")  # where it was picked below, the router has told it so
        self.observe(self.label(request.model_name), "", variant, code, took_s)

    def __repr__(self) -> str:
        return "Measured"
