"""Parts that the gateway's tests put together: a backend that says who it is, a table over it, a clock that is set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.errors import NotFound
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from infermesh.telemetry import Metrics
from services.gateway.backends import Backend
from services.gateway.metrics import GatewayMetrics
from services.gateway.route_table import RouteTable
from services.gateway.routes import RoutesFile


@dataclass
class FakeBackend(InferenceService, ModelRepository):
    """Answers every model under its own name, keeps what it was asked, and fails or waits when it is told to."""

    name: str
    model: str = ""
    version: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str, Call]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def variant(self, *, model: str = "", version: str = "") -> FakeBackend:
        return FakeBackend(self.name, model, version, self.state, self.asked, self.loaded)

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        model, version = self.model or request.model_name, self.version or request.model_version
        self.asked.append((model, version, call))
        if "wait" in self.state:
            await self.state["wait"].wait()
        if "error" in self.state:
            raise self.state["error"]
        return pb.ModelInferResponse(model_name=model, model_version=version or "7", id=request.id)

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        if "error" in self.state:
            raise self.state["error"]
        return pb.ModelMetadataResponse(
            name=self.model or request.name, versions=["1", "2", "3"], platform=f"{self.name} {self.version}".strip()
        )

    async def ready(self, model: str = "", version: str = "") -> bool:
        if "error" in self.state:
            raise self.state["error"]
        return bool(self.state.get("ready", True))

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        entries = [pb.RepositoryIndexResponse.ModelIndex(name=n, version="1", state=s) for n, s in self.state["index"]]
        return pb.RepositoryIndexResponse(models=entries)

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        if "error" in self.state:
            raise self.state["error"]
        self.loaded.append(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        if request.model_name not in self.loaded:
            raise NotFound(f"model {request.model_name}: not here")
        self.loaded.remove(request.model_name)
        return pb.RepositoryModelUnloadResponse()


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Mesh:
    """A route table over fake backends, and what was counted."""

    table: RouteTable
    backends: dict[str, FakeBackend]
    metrics: Metrics

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"service": "gateway", **labels}) or 0.0

    def picks(self, model: str, variant: str, by: str) -> float:
        return self.value("infermesh_gateway_picks_total", model=model, variant=variant, by=by)

    def copies(self, outcome: str, model: str = "fraud", shadow: str = "candidate") -> float:
        return self.value("infermesh_gateway_shadow_total", model=model, shadow=shadow, outcome=outcome)


MakeMesh = Callable[..., Mesh]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_mesh() -> MakeMesh:
    """make_mesh([route, …], draw=…): routes as they are written, over the backends `one`, `two` and `explainer`."""

    def make(routes: list[Mapping[str, Any]], draw: Callable[[], float] = lambda: 0.0) -> Mesh:
        metrics = Metrics("gateway")
        fakes = {name: FakeBackend(name) for name in ("one", "two", "explainer")}
        backends = {name: Backend(name, fake) for name, fake in fakes.items()}
        file = RoutesFile.model_validate({"routes": routes})
        return Mesh(RouteTable(file, backends, GatewayMetrics(metrics), draw=draw), fakes, metrics)

    return make


async def settled() -> None:
    """Let tasks that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def settle() -> Callable[[], Any]:
    return settled


@pytest.fixture
def ask() -> Callable[..., pb.ModelInferRequest]:
    """ask("fraud", version="2"): a request without inputs, which no part of the gateway looks at."""

    def make(model: str, version: str = "", **rest: Any) -> pb.ModelInferRequest:
        return pb.ModelInferRequest(model_name=model, model_version=version, **rest)

    return make
