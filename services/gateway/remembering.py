"""Keeps the answers of a route for its fallback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService
from services.gateway.answer_cache import AnswerCache
from services.gateway.authenticate import VARIANT_HEADER

__all__ = ["Remembering"]


class Remembering(InferenceService):
    """The service, whose answers the caches remember: those of ModelInfer, and of streams with one answer alone, since the first
    of several is no answer to the whole question. Not those to calls that pin a version or variant, which no fallback is for.

    It is a service rather than a filter, because a filter sees no end of a stream.
    """

    def __init__(self, caches: Sequence[AnswerCache], service: InferenceService) -> None:
        self._caches = tuple(caches)
        self._service = service

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        response = await self._service.infer(request, call)
        self._remember(request, call, response)
        return response

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        only: pb.ModelInferResponse | None = None
        answers = 0
        async with aclosing(self._service.stream(request, call)) as responses:  # type: ignore[type-var]  # a generator
            async for response in responses:
                answers += 1
                if answers == 1:
                    only = pb.ModelInferResponse()
                    only.CopyFrom(response)  # who gets it may change it before the stream ends
                yield response
        if only is not None and answers == 1:
            self._remember(request, call, only)

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        return await self._service.metadata(request, call)

    async def ready(self, model: str = "", version: str = "") -> bool:
        return await self._service.ready(model, version)

    def _remember(self, request: pb.ModelInferRequest, call: Call, response: pb.ModelInferResponse) -> None:
        if not request.model_version and not call.metadata.get(VARIANT_HEADER):
            for cache in self._caches:
                cache.remember(request, call, response)

    def __repr__(self) -> str:
        return repr(self._service)
