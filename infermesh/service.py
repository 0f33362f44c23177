"""The one idea of the mesh: services answer, filters stand round them, routers choose among them.

The model is Finagle's ("Your Server as a Function", Eriksen 2013): a stack of filters is itself a service, so the same graph
runs in one process or in four, and no part knows which.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol, TypeGuard, cast, runtime_checkable

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, Internal, Unimplemented, quoted
from infermesh.protocol.open_inference_pb2 import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
)

__all__ = ["OPENING", "Filter", "Infer", "InferenceService", "ModelRepository", "Stack", "Tool", "stack"]


OPENING = "ModelStreamOpen"  # what `admit` is asked when a stream is opened: each of its requests asks for itself
Tool = Callable[[bytes, Call], Awaitable[bytes]]  # an RPC beside OIP: the request's bytes to the answer's
Infer = Callable[[ModelInferRequest, Call], Awaitable[ModelInferResponse]]


class InferenceService(Protocol):
    """Something that answers ModelInfer. A request belongs to its sender and is never changed; a response to its receiver.

    Every method raises `MeshError`s only for what it foresees; anything else is a defect and becomes INTERNAL at the edge.
    Cancelling the caller's task cancels the work.
    """

    async def infer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse: ...

    async def stream(self, request: ModelInferRequest, call: Call) -> AsyncIterator[ModelInferResponse]:
        """Several answers to one request, the last one the best; by default the one of `infer`."""
        yield await self.infer(request, call)

    async def metadata(self, request: ModelMetadataRequest, call: Call) -> ModelMetadataResponse: ...

    async def ready(self, model: str = "", version: str = "") -> bool:
        """Whether the model can answer now; without a model: whether the service should be sent traffic."""
        ...

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        """Raise unless the caller may make this RPC; `stack` asks its filters. A bare service admits everyone."""
        return


@runtime_checkable
class ModelRepository(Protocol):
    """The models that a service holds, and what can be done with them. By default nothing can."""

    async def index(self, request: RepositoryIndexRequest, call: Call) -> RepositoryIndexResponse:
        raise Unimplemented("RepositoryIndex: this service has no model repository")

    async def load(self, request: RepositoryModelLoadRequest, call: Call) -> RepositoryModelLoadResponse:
        raise Unimplemented("RepositoryModelLoad: this service has no model repository")

    async def unload(self, request: RepositoryModelUnloadRequest, call: Call) -> RepositoryModelUnloadResponse:
        raise Unimplemented("RepositoryModelUnload: this service has no model repository")

    async def config(self, request: ModelConfigRequest, call: Call) -> ModelConfigResponse:
        raise Unimplemented("ModelConfig: this service keeps no model configuration")

    async def statistics(self, request: ModelStatisticsRequest, call: Call) -> ModelStatisticsResponse:
        raise Unimplemented("ModelStatistics: this service keeps no model statistics")


class Filter(Protocol):
    """One async function round a service.

    `admit` runs for every RPC and for each message of a stream; by default it admits. `__call__` runs round ModelInfer; by
    default it just goes on. A filter that changes the request works on a copy. Round a stream, `__call__` sees the first
    answer as the return value of `then`; the later ones pass as they are, until the deadline that the filters left.
    """

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        """Raise unless the caller may make this RPC."""
        return

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        return await then(request, call)


def stack(*filters: Filter, service: InferenceService) -> Stack:
    """The service with the filters round it, outermost first: the first sees a call first and its answer last."""
    return Stack(filters, service)


class Stack(InferenceService, ModelRepository):
    """What `stack` makes. What a filter does not do costs nothing: the layers are composed once, here.

    `tools` are RPCs beside OIP that the service offers, by their full names; whoever makes one asks `admit` itself.
    """

    tools: Mapping[str, Tool] = {}

    def __init__(self, filters: tuple[Filter, ...], service: InferenceService) -> None:
        self.filters = filters
        self.service = service
        self._repository: ModelRepository = service if _is_repository(service) else _NoRepository()
        self._admits = [f.admit for f in filters if type(f).admit is not Filter.admit]
        self._infer = self._compose("ModelInfer", service.infer)
        self.infer = self._infer  # type: ignore[method-assign, assignment]  # the composed function: no frame in between

    async def infer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        return await self._infer(request, call)

    async def stream(self, request: ModelInferRequest, call: Call) -> AsyncIterator[ModelInferResponse]:
        rest: AsyncGenerator[ModelInferResponse, None] | None = None
        below = call

        async def first(request: ModelInferRequest, call: Call) -> ModelInferResponse:
            nonlocal rest, below
            if rest is not None:  # a retry: what was begun before is over
                await rest.aclose()
            below = call
            # An async generator, as `stream` is written everywhere.
            rest = cast(AsyncGenerator[ModelInferResponse, None], self.service.stream(request, call))
            answer = await anext(rest, None)
            if answer is None:
                raise Internal(
                    f"model {quoted(request.model_name)}: the stream ended without an answer", reason="NO_ANSWER"
                )
            return answer

        try:
            yield await self._compose("ModelStreamInfer", first)(request, call)
            while rest is not None and (answer := await _next_within(rest, request, below)) is not None:
                yield answer
        finally:
            if rest is not None:
                await rest.aclose()

    async def metadata(self, request: ModelMetadataRequest, call: Call) -> ModelMetadataResponse:
        await self._admit_here("ModelMetadata", request.name, request.version, call)
        return await self.service.metadata(request, call)

    async def ready(self, model: str = "", version: str = "") -> bool:
        return await self.service.ready(model, version)

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        await self._admit_here(rpc, model, version, call)
        await self.service.admit(rpc, model, version, call)

    async def index(self, request: RepositoryIndexRequest, call: Call) -> RepositoryIndexResponse:
        await self._admit_here("RepositoryIndex", "", "", call)
        return await self._repository.index(request, call)

    async def load(self, request: RepositoryModelLoadRequest, call: Call) -> RepositoryModelLoadResponse:
        await self._admit_here("RepositoryModelLoad", request.model_name, "", call)
        return await self._repository.load(request, call)

    async def unload(self, request: RepositoryModelUnloadRequest, call: Call) -> RepositoryModelUnloadResponse:
        await self._admit_here("RepositoryModelUnload", request.model_name, "", call)
        return await self._repository.unload(request, call)

    async def config(self, request: ModelConfigRequest, call: Call) -> ModelConfigResponse:
        await self._admit_here("ModelConfig", request.name, request.version, call)
        return await self._repository.config(request, call)

    async def statistics(self, request: ModelStatisticsRequest, call: Call) -> ModelStatisticsResponse:
        await self._admit_here("ModelStatistics", request.name, request.version, call)
        return await self._repository.statistics(request, call)

    async def _admit_here(self, rpc: str, model: str, version: str, call: Call) -> None:
        for admit in self._admits:
            await admit(rpc, model, version, call)

    def _compose(self, rpc: str, innermost: Infer) -> Infer:
        composed = innermost
        for each in reversed(self.filters):
            composed = _layer(each, rpc, composed)
        return composed

    def __repr__(self) -> str:
        return " → ".join([*(repr(f) for f in self.filters), repr(self.service)])


async def _next_within(
    answers: AsyncGenerator[ModelInferResponse, None], request: ModelInferRequest, call: Call
) -> ModelInferResponse | None:
    """The next answer, None after the last; the filters have let go of the call by now, so its deadline is kept here."""
    if call.deadline.at == math.inf:
        return await anext(answers, None)
    timer = asyncio.timeout(call.deadline.remaining())
    try:
        async with timer:
            return await anext(answers, None)
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineExceeded(
            f"model {quoted(request.model_name)}: the deadline passed before the last answer of the stream"
        ) from None


class _NoRepository(ModelRepository):
    pass


_repositories: dict[
    type, bool
] = {}  # by class: the check of a protocol takes 25 µs, and a route table makes thousands of stacks


def _is_repository(service: InferenceService) -> TypeGuard[ModelRepository]:
    known = _repositories.get(type(service))
    if known is None:
        known = _repositories[type(service)] = isinstance(service, ModelRepository)
    return known


def _layer(each: Filter, rpc: str, then: Infer) -> Infer:
    admits = type(each).admit is not Filter.admit
    wraps = type(each).__call__ is not Filter.__call__
    if not admits:
        return (lambda request, call: each(request, call, then)) if wraps else then

    async def admitted(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        await each.admit(rpc, request.model_name, request.model_version, call)
        return await (each(request, call, then) if wraps else then(request, call))

    return admitted
