"""The services behind the transformer, and which of them answers for which model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Protocol, TypeVar

from infermesh.call import Call
from infermesh.errors import NotFound
from infermesh.merge import all_of, any_of, merged_index, merged_statistics
from infermesh.names import check_model_name, explained_model
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from services.transformer.after.after_model import AfterModel
from services.transformer.config import RoutingConfig
from services.transformer.describe import as_the_client_sees_it
from services.transformer.plan import JoinPlan

__all__ = ["Backend", "Backends"]

READY = "READY"
MAX_KNOWN = 1000  # a bound for label values

T = TypeVar("T")


class Backend(InferenceService, ModelRepository, Protocol):
    """What stands behind a name of the configuration: in this process or on the other side of a channel."""


class Backends(InferenceService, ModelRepository):
    """Chooses a backend by model and variant. Metadata of a model with a plan says what the client has to send.

    `after` are the steps on the answers of models, by name; all other answers pass as they are, the same object.

    Backends under two names may be the same service; `same_as` tells them apart (the address), so that none is asked twice.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        routing: RoutingConfig,
        plans: Mapping[str, JoinPlan],
        same_as: Callable[[str], object] = lambda name: name,
        after: Mapping[str, AfterModel] | None = None,
    ) -> None:
        self.after = after or {}
        self._backends = backends
        self._routing = routing
        self._plans = plans
        self._same_as = same_as
        self._known = set(plans)

    def label(self, model: str) -> str:
        """The model's name if it is configured or has answered once, else the empty string."""
        return model if model in self._known else ""

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        backend, after = self._route(request.model_name, call.variant), self.after.get(request.model_name)
        response = await (backend.infer(request, call) if after is None else after.infer(backend, request, call))
        self._answered(request.model_name)
        return response

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        backend, after = self._route(request.model_name, call.variant), self.after.get(request.model_name)
        stream = backend.stream(request, call) if after is None else after.stream(backend, request, call)
        async with aclosing(stream) as answers:  # type: ignore[type-var]
            async for answer in answers:
                self._answered(request.model_name)
                yield answer

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        metadata = await self.model_metadata(request, call)
        plan = self._plans.get(request.name)
        return metadata if plan is None else as_the_client_sees_it(metadata, plan, self.after.get(request.name))

    async def model_metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        """What the model itself takes."""
        return await self._route(request.name, call.variant).metadata(request, call)

    async def ready(self, model: str = "", version: str = "") -> bool:
        """The transformer is ready when it is built, whatever its backends do; a model is when one of its backends says so.

        Raises NotFound when none of those that may answer for the model has it.
        """
        if not model:
            return True
        targets = self._distinct(self._names_for(model))
        said = await asyncio.gather(*(each.ready(model, version) for each in targets), return_exceptions=True)
        if True in said:
            return True
        failed = [each for each in said if isinstance(each, BaseException)]
        for error in failed:
            if not isinstance(error, NotFound):
                raise error
        if len(failed) == len(said):
            raise failed[0]
        return False

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        return merged_index(await any_of(each.index(request, call) for each in self._distinct(self._backends)))

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        targets = self._distinct(self._names_for(request.model_name))
        return (await all_of(each.load(request, call) for each in targets))[0]

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        targets = self._distinct(self._names_for(request.model_name))
        return (await all_of(each.unload(request, call) for each in targets))[0]

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        return await self._route(request.name, call.variant).config(request, call)

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        if request.name:
            return await self._route(request.name, call.variant).statistics(request, call)
        return merged_statistics(
            await any_of(each.statistics(request, call) for each in self._distinct(self._backends))
        )

    def __repr__(self) -> str:
        return f"Backends({', '.join(self._backends)})"

    def _route(self, model: str, variant: str) -> Backend:
        check_model_name(model)
        for route in self._routing.routes:
            if route.variant in ("", variant) and route.fits(model):
                return self._backends[route.backend]
        return self._backends[self._usual(model)]

    def _usual(self, model: str) -> str:
        return (
            self._routing.explanations
            if self._routing.explanations and explained_model(model)
            else self._routing.models
        )

    def _names_for(self, model: str) -> list[str]:
        """Every backend that may answer for a model, whatever the variant."""
        check_model_name(model)
        return [*(r.backend for r in self._routing.routes if r.fits(model)), self._usual(model)]

    def _distinct(self, names: Iterable[str]) -> list[Backend]:
        return list({self._same_as(name): self._backends[name] for name in names}.values())

    def _answered(self, model: str) -> None:
        if model not in self._known and len(self._known) < MAX_KNOWN:
            self._known.add(model)
