"""A server on a free port, with a service that a test writes, and a channel to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from infermesh.call import Call
from infermesh.config import BackendConfig, ServerConfig
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc
from infermesh.service import InferenceService, stack
from infermesh.transport import RemoteService, Server

Answer = Callable[[pb.ModelInferRequest, Call], Awaitable[pb.ModelInferResponse]]


class Scripted(InferenceService):
    """Answers as a test says, and keeps the calls that reached it."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.calls: list[Call] = []
        self.requests: list[pb.ModelInferRequest] = []
        self.cancelled = 0

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.calls.append(call)
        self.requests.append(request)
        try:
            if self.answer is not None:
                return await self.answer(request, call)
            return pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(name=request.name)

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True


@dataclass
class Running:
    """A server that serves, and ways to reach it."""

    server: Server
    service: Any
    channel: grpc.aio.Channel
    stub: Any
    remote: RemoteService
    target: str


Serve = Callable[..., Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(service, inside_mesh=True, max_in_flight=…)`: a Running, ended after the test."""
    async with AsyncExitStack() as resources:

        async def start(
            service: InferenceService | None = None, *, inside_mesh: bool = True, ready: bool = True, **config: Any
        ) -> Running:
            return await resources.enter_async_context(_running(service or Scripted(), inside_mesh, ready, config))

        yield start


@asynccontextmanager
async def _running(
    service: InferenceService, inside_mesh: bool, ready: bool, config: dict[str, Any]
) -> AsyncIterator[Running]:
    server = Server("tested", ServerConfig(**{"host": "127.0.0.1", "grpc_port": 0, **config}), inside_mesh=inside_mesh)
    await server.start()
    if ready:
        server.mount(stack(service=service))
        await server.set_ready(True)
    target = f"127.0.0.1:{server.port}"
    remote = RemoteService(BackendConfig(target=target), "backend")
    async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            yield Running(server, service, channel, pb_grpc.GRPCInferenceServiceStub(channel), remote, target)
        finally:
            await remote.close()
            await server.stop(0)


@pytest.fixture
def scripted() -> Callable[..., Scripted]:
    """The class of a service whose `infer` is a function of the test's."""
    return Scripted


async def eventually(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; a test that waits for what never comes fails within five seconds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    return eventually
