"""Which route a call takes, by its model."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import Any, Protocol

from infermesh.call import Call
from infermesh.errors import FailedPrecondition, NotFound, quoted
from infermesh.garbage import Keeping
from infermesh.names import EXPLAINER_SUFFIX, check_model_name, explained_model
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from services.gateway.backends import Backend
from services.gateway.copies import Copies
from services.gateway.readiness import Gate, Listener, ReadinessWatch
from services.gateway.repository import MergedRepository
from services.gateway.resilience import Resilience
from services.gateway.route import Answering, Comparing, Observers, Parts, Route
from services.gateway.routes import ReadinessConfig, RouteConfig
from services.gateway.shadow import never
from services.gateway.standing import Standing
from services.gateway.targets import ShadowConfig

__all__ = ["RouteTable"]

GENERATION = "x-infermesh-generation"  # in trailing metadata: of the table that a call came through
MAX_GATEWAYS = 8  # that a call may come through: one for a site and one before a team are two
FORGOTTEN_AT_ONCE = 100  # variants, before calls get their turn
AT_ONCE = 4  # routes that are compiled before calls get their turn


class Readable(Protocol):
    """A file of routes that has been read and checked; `RoutesFile` is one."""

    @property
    def routes(self) -> Iterable[RouteConfig]: ...
    @property
    def readiness(self) -> ReadinessConfig: ...


class _Table:
    """Compiled routes, by the names that calls use, and what there is in all of them together."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self.exact: dict[str, Answering] = {}
        self.aliases: dict[str, tuple[Route, int]] = {}
        self.prefixes: list[tuple[str, Route]] = []
        self.backends: set[str] = set()
        self.listeners: dict[Gate, list[Listener]] = {}
        self.variants: set[tuple[str, str]] = set()
        self.shadows: set[tuple[str, str]] = set()
        self.compared: dict[tuple[str, str], ShadowConfig] = {}

    def add(self, route: Route) -> None:
        self.routes.append(route)
        if route.prefix is not None:
            self.prefixes.append((route.prefix, route))
        else:
            self.exact[route.label] = route.model
            self.exact[route.label + EXPLAINER_SUFFIX] = route.explainer
        for alias in route.config.aliases:
            self.aliases[alias] = route, 0
            self.aliases[alias + EXPLAINER_SUFFIX] = route, 1
        self.backends |= route.config.backends
        for gate, each in route.listeners.items():
            self.listeners.setdefault(gate, []).extend(each)
        self.variants.update((route.label, each.name) for each in route.variants)
        self.shadows.update((route.label, each.name) for each in route.config.shadows)
        if route.prefix is None:
            self.compared.update({(route.label, each.name): each for each in route.config.shadows})

    def drop(self, routes: list[Route]) -> None:
        """Let go of the last routes, where nobody takes this table any more."""
        for route in routes:
            names = [route.label, *route.config.aliases]
            for name in (*names, *(name + EXPLAINER_SUFFIX for name in names)):
                self.exact.pop(name, None)
                self.aliases.pop(name, None)
            for gate in route.listeners:
                self.listeners.pop(gate, None)
        self.prefixes.clear()
        del self.routes[-len(routes) :]


class RouteTable(InferenceService, ModelRepository):
    """The routes of a file, compiled: a dictionary for exact names, then the longest prefix that fits.

    A new table is compiled whole and takes the place of the old one in one step, with no await in it; a call that is under way
    stays with the route that it took. Backends, their filters, what is known of readiness and the copies under way outlive
    tables. `generation` is how many tables there have been.
    """

    def __init__(
        self,
        file: Readable,
        backends: Mapping[str, Backend],
        observers: Observers,
        *,
        draw: Callable[[], float] = random.random,
        resilience: Resilience | None = None,
        watch: ReadinessWatch | None = None,
        comparer: Comparing | None = None,
        overloaded: Callable[[], bool] = never,
    ) -> None:
        self.generation = 0
        self._resilience = resilience
        self._watch = watch
        self._all_backends = backends
        self._observers = observers
        self._copies: dict[tuple[str, str], Copies] = {}
        self._asking: dict[tuple[str, str], asyncio.Future[bool]] = {}
        self._table = _Table()
        self._parts = Parts(
            backends=backends,
            observers=observers,
            copies=lambda route, shadow: self._copies.setdefault((route, shadow), Copies()),
            watch=watch,
            resilience=resilience,
            draw=draw,
            comparer=comparer,
            overloaded=overloaded,
        )
        self._repository = MergedRepository(self)
        self.swap(file)

    def swap(self, file: Readable) -> None:
        """From now on calls take these routes. The backends that they name are known: `read_routes` has checked that."""
        table = _Table()
        for route in self._compiled(file):
            table.add(route)
        for _ in self._adopted(table, file.readiness):
            pass

    async def take_over(self, file: Readable) -> None:
        """The same, while calls go on: they get their turn every few routes, and between all that is done for the whole table."""
        table, keeping, compiled = _Table(), Keeping(), self._compiled(file)
        while True:
            with keeping:
                some = list(islice(compiled, AT_ONCE))
                for route in some:
                    table.add(route)
            if not some:
                break
            await asyncio.sleep(0)
        old = self._table
        for _ in self._adopted(table, file.readiness):
            await asyncio.sleep(0)
        while old.routes:  # bit by bit as well: to free a large table takes as long as to make it
            old.drop(old.routes[-AT_ONCE:])
            await asyncio.sleep(0)

    def _compiled(self, file: Readable) -> Iterator[Route]:
        return (Route(config, self._parts, file.readiness, self.generation + 1) for config in file.routes)

    def _adopted(self, table: _Table, readiness: ReadinessConfig) -> Iterator[None]:
        """Take the table, in one step, then do the rest, which may wait for calls: a step for each `yield`."""
        old, self._table = self._table, table
        table.prefixes.sort(key=lambda each: -len(each[0]))
        self._exact, self._backends = table.exact, tuple(self._all_backends[name] for name in sorted(table.backends))
        self.generation += 1
        self._generation_told = str(self.generation)
        yield
        if self._watch is not None:
            self._watch.adopt(table.listeners, every_s=readiness.every, rise=readiness.rise, fall=readiness.fall)
        yield
        if self._parts.comparer is not None:
            self._parts.comparer.adopt(table.compared)
        yield
        if self._resilience is not None:
            self._resilience.settle()
        yield
        # Names come and go, and what is kept for them must not grow.
        for at, (label, name) in enumerate(old.variants - table.variants):
            if at % FORGOTTEN_AT_ONCE == 0:
                yield
            self._observers.forget(label, name)
            self._observers.forget(label + EXPLAINER_SUFFIX, name)
        yield
        self._copies = {key: copies for key, copies in self._copies.items() if copies or key in table.shadows}

    def standing(self) -> list[Standing]:
        """How each variant stands now; from any thread."""
        return [
            Standing(route.label, each.name, each.backend.name, each.version, share, gate is None or gate.open)
            for route in self._table.routes.copy()
            for each, share in zip(route.variants, route.shares(), strict=True)
            for gate in (route.gates.get(each.name),)
        ]

    def find(self, model: str) -> Answering:
        """What answers for a model, or for the explainer of one. Raises NotFound, or InvalidRequest for an empty name."""
        found = self._exact.get(model) or self._by_other_name(model)
        if found is None:
            check_model_name(model)
            raise NotFound(f"model {quoted(model)}: no route for it", rejected=True)
        return found

    def label(self, model: str) -> str:
        """The model as its route names it, so that a caller's spelling becomes no label; empty without a route."""
        found = self._exact.get(model) or self._by_other_name(model)
        return found.label if found else ""

    def backends(self) -> Iterable[Backend]:
        return self._backends

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if call.gateways > MAX_GATEWAYS:
            raise _loop(call)
        if call.trailing is not None:
            call.trailing[GENERATION] = self._generation_told
        return await self.find(request.model_name).service.infer(request, call)

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        if call.gateways > MAX_GATEWAYS:
            raise _loop(call)
        if call.trailing is not None:
            call.trailing[GENERATION] = self._generation_told
        answers = self.find(request.model_name).service.stream(request, call)
        async with aclosing(answers) as responses:  # type: ignore[type-var]  # a generator, as everywhere
            async for response in responses:
                yield response

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        if call.gateways > MAX_GATEWAYS:
            raise _loop(call)
        return await self.find(request.name).service.metadata(request, call)

    async def ready(self, model: str = "", version: str = "") -> bool:
        """The gateway is ready when it is built, whatever its backends do; a model is when one of its variants is.

        Who asks the same while it is being found out waits for that: the question does not say where it came through, and in a
        loop of gateways with several variants would double each time round.
        """
        if not model:
            return True
        key = (model, version)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.ensure_future(self.find(model).service.ready(model, version))
            asking.add_done_callback(partial(self._found_out, key))
        return await asyncio.shield(asking)

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        if call.gateways > MAX_GATEWAYS:
            raise _loop(call)
        return await self._repository.index(request, call)

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        if call.gateways > MAX_GATEWAYS:
            raise _loop(call)
        return await self._repository.load(request, call)

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        if call.gateways > MAX_GATEWAYS:
            raise _loop(call)
        return await self._repository.unload(request, call)

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        if call.gateways > MAX_GATEWAYS:
            raise _loop(call)
        return await self._repository.config(request, call)

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        if call.gateways > MAX_GATEWAYS:
            raise _loop(call)
        return await self._repository.statistics(request, call)

    async def close(self) -> None:
        """End the copies that are under way; to be called when no call is, and before the backends are closed."""
        under_way: list[asyncio.Future[Any]] = [copy for copies in self._copies.values() for copy in copies]
        under_way += self._asking.values()
        for each in under_way:
            each.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    def _found_out(self, key: tuple[str, str], done: asyncio.Future[bool]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled():
            done.exception()  # is looked at: who asked may have gone

    def __repr__(self) -> str:
        return f"RouteTable({'; '.join(map(repr, self._table.routes))})"

    def _by_other_name(self, model: str) -> Answering | None:
        route, way = self._table.aliases.get(model, (None, 0))
        if route is None:
            return self._by_prefix(model)
        found = self._exact[model] = route.alias[way]  # as many as the file has, and gone with the table
        return found

    def _by_prefix(self, model: str) -> Answering | None:
        explained = explained_model(model)
        name = explained or model
        if not name:
            return None
        for prefix, route in self._table.prefixes:
            if name.startswith(prefix):
                return route.explainer if explained else route.model
        return None


def _loop(call: Call) -> FailedPrecondition:
    return FailedPrecondition(
        f"a loop of gateways: the call has come to {call.gateways} of them; a route leads back to where it came from",
        reason="GATEWAY_LOOP",
        rejected=True,
    )
