"""A span round each call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from infermesh.call import Call
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer

__all__ = ["Traced"]

Span = Callable[
    [str, str, Call], AbstractContextManager[Mapping[str, str]]
]  # yields the trace metadata for what is below


@dataclass
class Traced(Filter):
    """Opens a span that holds everything below; hops below see it as their parent."""

    span: Span

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        with self.span(request.model_name, request.model_version, call) as below:
            return await then(request, call.derive(trace=below))

    def __repr__(self) -> str:
        return "Traced"
