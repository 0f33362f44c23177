"""Which route a call takes, by its model."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing

from infermesh.call import Call
from infermesh.errors import NotFound, quoted
from infermesh.names import EXPLAINER_SUFFIX, check_model_name, explained_model
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from services.gateway.backends import Backend
from services.gateway.repository import MergedRepository
from services.gateway.route import Answering, Observers, Route
from services.gateway.routes import RoutesFile
from services.gateway.shadow import Copies

__all__ = ["RouteTable"]


class RouteTable(InferenceService, ModelRepository):
    """The routes of a file, compiled: a dictionary for exact names, then the longest prefix that fits.

    A new table is compiled whole and takes the place of the old one in one assignment; a call that is under way stays with the
    route that it took. Backends, their filters and the copies under way outlive tables.
    """

    def __init__(
        self,
        file: RoutesFile,
        backends: Mapping[str, Backend],
        observers: Observers,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._all_backends = backends
        self._observers = observers
        self._draw = draw
        self._copies: dict[tuple[str, str], Copies] = {}
        self._repository = MergedRepository(self)
        self.swap(file)

    def swap(self, file: RoutesFile) -> None:
        """From now on calls take these routes. The backends that they name are known: `read_routes` has checked that."""
        routes = [
            Route(config, self._all_backends, self._observers, self._copies_of(config.label), self._draw)
            for config in file.routes
        ]
        exact = {}
        for route in (r for r in routes if r.prefix is None):
            exact[route.label] = route.model
            exact[route.label + EXPLAINER_SUFFIX] = route.explainer
        prefixes = [(r.prefix, r) for r in routes if r.prefix is not None]
        named = {name: self._all_backends[name] for config in file.routes for name in sorted(config.backends)}
        self._routes = routes
        self._backends = tuple(named.values())
        self._prefixes = sorted(prefixes, key=lambda each: -len(each[0]))
        self._exact = exact

    def find(self, model: str) -> Answering:
        """What answers for a model, or for the explainer of one. Raises NotFound, or InvalidRequest for an empty name."""
        found = self._exact.get(model) or self._by_prefix(model)
        if found is None:
            check_model_name(model)
            raise NotFound(f"model {quoted(model)}: no route for it", rejected=True)
        return found

    def label(self, model: str) -> str:
        """The model as its route names it, so that a caller's spelling becomes no label; empty without a route."""
        found = self._exact.get(model) or self._by_prefix(model)
        return found.label if found else ""

    def backends(self) -> Iterable[Backend]:
        return self._backends

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return await self.find(request.model_name).service.infer(request, call)

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        answers = self.find(request.model_name).service.stream(request, call)
        async with aclosing(answers) as responses:  # type: ignore[type-var]  # a generator, as everywhere
            async for response in responses:
                yield response

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        return await self.find(request.name).service.metadata(request, call)

    async def ready(self, model: str = "", version: str = "") -> bool:
        """The gateway is ready when it is built, whatever its backends do; a model is when one of its variants is."""
        return await self.find(model).service.ready(model, version) if model else True

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        return await self._repository.index(request, call)

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        return await self._repository.load(request, call)

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        return await self._repository.unload(request, call)

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        return await self._repository.config(request, call)

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        return await self._repository.statistics(request, call)

    async def close(self) -> None:
        """End the copies that are under way; to be called when no call is, and before the backends are closed."""
        under_way = [copy for copies in self._copies.values() for copy in copies]
        for copy in under_way:
            copy.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    def __repr__(self) -> str:
        return f"RouteTable({'; '.join(map(repr, self._routes))})"

    def _by_prefix(self, model: str) -> Answering | None:
        explained = explained_model(model)
        name = explained or model
        if not name:
            return None
        for prefix, route in self._prefixes:
            if name.startswith(prefix):
                return route.explainer if explained else route.model
        return None

    def _copies_of(self, route: str) -> Callable[[str], Copies]:
        return lambda shadow: self._copies.setdefault((route, shadow), set())
