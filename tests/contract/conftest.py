"""Services in this process and behind a channel, so that one suite can show that nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.config import BackendConfig, ServerConfig
from infermesh.errors import InvalidRequest, MeshError, NotFound
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import Filter, InferenceService, ModelRepository, Stack, stack
from infermesh.transport import RemoteService, Server
from services.predictor.config import PredictorConfig
from services.predictor.predictor import Predictor
from services.predictor.repository.repository import Repository
from services.predictor.source import open_source

SAMPLES = Path(__file__).parents[2] / "samples/models"
PLACES = ["in process", "over a channel", "over two channels"]


class Fake(InferenceService, ModelRepository):
    """Answers what a test tells it to, and keeps what reached it."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.answers = 1
        self.calls: list[Call] = []
        self.requests: list[Any] = []
        self.cancelled = 0
        self.finished = 0

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await self._reached(request, call)
        return self._answer(request, 0)

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        try:
            for number in range(self.answers):
                await self._reached(request, call)
                yield self._answer(request, number)
            if self.error is None and request.model_name == "fails late":
                raise NotFound("gone in the middle")
        finally:
            self.finished += 1

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        await self._reached(request, call)
        return pb.ModelMetadataResponse(name=request.name, versions=[request.version], platform="fake")

    async def ready(self, model: str = "", version: str = "") -> bool:
        if self.error is not None:
            raise self.error
        return model != "away"

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        await self._reached(request, call)
        return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(name="m", reason="r")])

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        await self._reached(request, call)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        await self._reached(request, call)
        return pb.RepositoryModelUnloadResponse()

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        await self._reached(request, call)
        return pb.ModelConfigResponse(config=pb.ModelConfig(name=request.name))

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        await self._reached(request, call)
        return pb.ModelStatisticsResponse(model_stats=[pb.ModelStatistics(name=request.name)])

    async def _reached(self, request: Any, call: Call) -> None:
        copy = type(request)()
        copy.CopyFrom(request)
        self.requests.append(copy)
        self.calls.append(call)
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error

    def _answer(self, request: pb.ModelInferRequest, number: int) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name=request.model_name, model_version=str(number), id=request.id)
        response.raw_output_contents.extend(request.raw_input_contents)
        unknown = request.SerializeToString()[-UNKNOWN_BYTES:] if request.id == "unknown" else b""
        response.MergeFromString(unknown)
        return response


UNKNOWN_BYTES = 7  # of the unknown field that the suite sends: tag of two bytes, length, four letters


class Refuse(Filter):
    """Admits nothing of the RPCs that it names."""

    def __init__(self) -> None:
        self.rpcs: set[str] = set()
        self.asked: list[tuple[str, str, str]] = []

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        self.asked.append((rpc, model, version))
        if rpc in self.rpcs:
            raise InvalidRequest(f"not admitted: {rpc}")


Place = Callable[[InferenceService], Awaitable[Any]]


@pytest.fixture(params=PLACES)
async def placed(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """`await placed(service)`: the service itself, or the same one behind one or two channels."""
    hops = PLACES.index(request.param)
    async with AsyncExitStack() as resources:

        async def place(service: InferenceService) -> InferenceService:
            for _ in range(hops):
                service = await resources.enter_async_context(_behind_a_channel(service))
            return stack(service=service)

        yield place


@asynccontextmanager
async def _behind_a_channel(service: InferenceService) -> AsyncIterator[InferenceService]:
    server = Server("hop", ServerConfig(host="127.0.0.1", grpc_port=0), inside_mesh=True)
    await server.start()
    server.mount(service if isinstance(service, Stack) else stack(service=service))
    await server.set_ready(True)
    remote = RemoteService(BackendConfig(target=f"127.0.0.1:{server.port}", margin="200ms"), "backend")  # type: ignore[arg-type]
    try:
        yield remote
    finally:
        await remote.close()
        await server.stop(0)


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def refuse() -> Refuse:
    return Refuse()


@pytest.fixture
async def service(placed: Place, fake: Fake, refuse: Refuse) -> Stack:
    """The fake with one filter round it, wherever it is."""
    found: Stack = await placed(stack(refuse, service=fake))
    return found


@pytest.fixture
async def predictor() -> AsyncIterator[Predictor]:
    """A real predictor with the sample models."""
    repository = Repository(
        PredictorConfig(repository={"root": SAMPLES, "models": ["iris", "fraud-detector"]}), open_source(str(SAMPLES))
    )
    await repository.load_all()
    yield Predictor(repository)
    repository.close()


@pytest.fixture
def is_remote(request: pytest.FixtureRequest) -> bool:
    """Whether there is a channel between the test and the service."""
    return bool(request.node.callspec.params["placed"] != PLACES[0])


def told(error: MeshError) -> tuple[Any, ...]:
    """All that an error says, but the hop, which is where it happened."""
    return (type(error), error.code, error.message, error.reason, error.rejected, error.retry_after_s)


@pytest.fixture(name="told")
def _told() -> Callable[[MeshError], tuple[Any, ...]]:
    return told
