"""Counts and times calls."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass

from infermesh.call import Call
from infermesh.errors import MeshError
from infermesh.parameters import VARIANT
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer

__all__ = ["Measured"]

Observe = Callable[[str, str, str, str, float], None]  # model, version, variant, code, seconds


@dataclass
class Measured(Filter):
    """Observes every call once, with the code that it ended with; CANCELLED when the caller went away.

    `label` maps the model that was asked for to a name that is safe as a label: the empty string for what nobody knows. The
    version and variant are those that answered.
    """

    observe: Observe
    label: Callable[[str], str]
    clock: Callable[[], float] = time.perf_counter

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        started = self.clock()
        try:
            response = await then(request, call)
        except MeshError as error:
            self.observe(self.label(request.model_name), "", call.variant, error.code, self.clock() - started)
            raise
        except CancelledError:
            self.observe(self.label(request.model_name), "", call.variant, "CANCELLED", self.clock() - started)
            raise
        except Exception:
            self.observe(self.label(request.model_name), "", call.variant, "INTERNAL", self.clock() - started)
            raise
        variant = call.variant
        if not variant and VARIANT in response.parameters:
            variant = response.parameters[VARIANT].string_param
        self.observe(self.label(request.model_name), response.model_version, variant, "OK", self.clock() - started)
        return response

    def __repr__(self) -> str:
        return "Measured"
