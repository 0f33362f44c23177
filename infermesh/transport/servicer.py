"""The RPCs of OIP on top of an InferenceService."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import infermesh
from infermesh.call import Call
from infermesh.errors import Internal, InvalidRequest, MeshError, ResourceExhausted, Unavailable, Unimplemented
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from infermesh.service import OPENING, Stack
from infermesh.transport.metadata import read_call
from infermesh.transport.peer import Names, Patterns
from infermesh.transport.status import answer_of, status_of
from infermesh.transport.stream import answer_in_order

__all__ = ["Malformed", "Servicer"]

EXTENSIONS = ("model_repository", "model_configuration", "statistics", "binary_tensor_data", "parameters")
OVERLOAD_PUSHBACK_S = 0.1
CANCELLED = "CANCELLED"

Refused = Callable[[str, str], None]  # the model that was asked for, as it was named, and the code
Trailing = tuple[tuple[str, str | bytes], ...]
Context = Any  # grpc.aio.ServicerContext, whose type arguments say nothing here


def _ignore(model: str, code: str) -> None:
    """Count nothing."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands for a request whose bytes are no protobuf message."""

    size_bytes: int


def _answered(rpc: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Turns what a method raises into a status; the RPC's name is the method's."""
    name = rpc.__name__

    @functools.wraps(rpc)
    async def answered(self: Servicer, request: Any, context: Context) -> Any:
        call = self.call(context)
        try:
            if type(request) is Malformed:
                if name == "ModelInfer":
                    await self._refuse_malformed(name, request, call)
                if name != "ServerLive":  # which needs no credentials
                    await self.admit(name, call)
                raise _malformed(name, request)
            response = await rpc(self, request, call)
        except Exception as error:
            code, text, trailing = status_of(answer_of(error, call, name), self.name)
        else:
            if call.trailing:
                context.set_trailing_metadata(tuple(call.trailing.items()))
            return response
        return await context.abort(code, text, _beside(trailing, call))

    return answered


def _beside(trailing: Trailing, call: Call | None) -> Trailing:
    """What a status carries, and beside it what filters told; the status' own words go before."""
    if call is None or not call.trailing:
        return trailing
    own = {key for key, _ in trailing}
    return (*trailing, *(each for each in call.trailing.items() if each[0] not in own))


def _malformed(rpc: str, request: Malformed) -> InvalidRequest:
    return InvalidRequest(
        f"{rpc}: the {request.size_bytes} bytes of the request are no protobuf message", reason="MALFORMED"
    )


class Servicer(GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated, without types
    """Answers for a service, once there is one; counts what is in flight and refuses more than the bound.

    Inferences that are refused here, where no filter of the service sees them, are told to `refused` with model and code: each
    ModelInfer and each message of a stream once, and a stream that is not opened once. So those and what the filters count are
    together what was offered.
    """

    def __init__(
        self, name: str, max_in_flight: int, max_streams: int, *, inside_mesh: bool, refused: Refused = _ignore
    ) -> None:
        self.name = name
        self._refused = refused
        self.service: Stack | None = None
        self.ready = False
        self.in_flight = 0
        self._max_in_flight = max_in_flight
        self._max_streams = max_streams
        self._streams = 0
        self._inside_mesh = inside_mesh
        self._leaving = asyncio.Event()

    def know_peers(self, mesh: Patterns) -> None:
        """From now on calls carry the names in their peer's certificate, and of the peers inside the mesh those are believed
        whose names are among the patterns. Without it a call costs nothing of this."""
        self.call = functools.partial(self._call_of_known_peer, Names(), mesh)  # type: ignore[method-assign]

    def leave(self) -> None:
        """End streams after the messages that they have sent us so far."""
        self._leaving.set()

    def call(self, context: Context) -> Call:
        return read_call(
            context.invocation_metadata() or (), context.time_remaining(), context.peer(), inside_mesh=self._inside_mesh
        )

    def _call_of_known_peer(self, known: Names, mesh: Patterns, context: Context) -> Call:
        names = known.of(context.auth_context())
        call = read_call(
            context.invocation_metadata() or (),
            context.time_remaining(),
            context.peer(),
            inside_mesh=self._inside_mesh and mesh.match(names),
        )
        call.identities = names
        return call

    async def admit(self, rpc: str, call: Call) -> None:
        """Credentials come before anything else, also where there is nothing that could be asked of the service."""
        await self._mounted().admit(rpc, "", "", call)

    @_answered
    async def ModelInfer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        service = self.service
        if service is None or self.in_flight >= self._max_in_flight:
            service = self._enter(request.model_name)  # which refuses
        else:
            self.in_flight += 1
        try:
            return await service.infer(request, call)
        finally:
            self.in_flight -= 1

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Context) -> None:
        """Written as a coroutine: grpc does not close a generator whose caller goes away while an answer is being sent.

        What filters tell beside the answers goes out once, at the end: what they told of the last request.
        """
        last: Call | None = None

        def new_call() -> Call:
            nonlocal last
            last = self.call(context)
            return last

        try:
            self._open_stream()
            try:
                await self._admit_stream(self.call(context))
                answers = answer_in_order(requests, new_call, self._stream, self._leaving, self.name)
                async with aclosing(answers):
                    async for answer in answers:
                        await context.write(answer)
            finally:
                self._streams -= 1
            if trailing := _beside((), last):
                context.set_trailing_metadata(trailing)
        except MeshError as error:
            code, text, trailing = status_of(error, self.name)
            await context.abort(code, text, _beside(trailing, last))

    async def _stream(
        self, request: pb.ModelInferRequest | Malformed, call: Call
    ) -> AsyncGenerator[pb.ModelInferResponse, None]:
        if isinstance(request, Malformed):
            await self._refuse_malformed("ModelStreamInfer", request, call)
            return
        service = self._enter(request.model_name)
        try:
            answers = cast(AsyncGenerator[pb.ModelInferResponse, None], service.stream(request, call))
            async with aclosing(answers):
                async for answer in answers:
                    yield answer
        finally:
            self.in_flight -= 1

    @_answered
    async def ServerLive(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    @_answered
    async def ServerReady(self, request: pb.ServerReadyRequest, call: Call) -> pb.ServerReadyResponse:
        if self.service is not None:
            await self.service.admit("ServerReady", "", "", call)
        return pb.ServerReadyResponse(ready=self.ready)

    @_answered
    async def ServerMetadata(self, request: pb.ServerMetadataRequest, call: Call) -> pb.ServerMetadataResponse:
        await self.admit("ServerMetadata", call)
        return pb.ServerMetadataResponse(
            name=f"infermesh-{self.name}", version=infermesh.__version__, extensions=EXTENSIONS
        )

    @_answered
    async def ModelReady(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        service = self._mounted()
        await service.admit("ModelReady", request.name, request.version, call)
        if not request.name:
            raise InvalidRequest(
                "model name: expected the name of a model, got an empty one", reason="MODEL_NAME_EMPTY", rejected=True
            )
        return pb.ModelReadyResponse(ready=await service.ready(request.name, request.version))

    @_answered
    async def ModelMetadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        return await self._mounted().metadata(request, call)

    @_answered
    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        return await self._mounted().index(request, call)

    @_answered
    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        return await self._mounted().load(request, call)

    @_answered
    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        return await self._mounted().unload(request, call)

    @_answered
    async def ModelConfig(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        return await self._mounted().config(request, call)

    @_answered
    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        return await self._mounted().statistics(request, call)

    def _mounted(self) -> Stack:
        if self.service is None:
            raise Unavailable(
                f"{self.name}: starting; its models are not loaded yet",
                reason="STARTING",
                rejected=True,
                retry_after_s=1.0,
            )
        return self.service

    def _open_stream(self) -> None:
        """A stream that is open costs memory, so there is a bound."""
        if self._streams >= self._max_streams:
            self._refused("", ResourceExhausted.code)
            raise ResourceExhausted(
                f"{self.name}: {self._streams} streams are open, which is the bound",
                reason="TOO_MANY_STREAMS",
                rejected=True,
                retry_after_s=OVERLOAD_PUSHBACK_S,
            )
        self._streams += 1

    async def _admit_stream(self, call: Call) -> None:
        """Whoever has no credentials opens no stream: idle ones would shut out those who have. What is asked for, and whether the
        credentials are still good then, is looked at with each request."""
        try:
            await self.admit(OPENING, call)
        except Exception as error:
            told = answer_of(error, call, "ModelStreamInfer")
            self._refused("", told.code)
            raise told from error

    async def _refuse_malformed(self, rpc: str, request: Malformed, call: Call) -> None:
        """Raise what is wrong; who may not ask is told just that."""
        try:
            await self.admit(rpc, call)
            raise _malformed(rpc, request)
        except MeshError as error:
            self._refused("", error.code)
            raise
        except asyncio.CancelledError:
            self._refused("", CANCELLED)
            raise
        except Exception:
            self._refused("", Internal.code)
            raise

    def _enter(self, model: str) -> Stack:
        """The service, for one more inference in flight."""
        try:
            service = self._mounted()
            self._check_in_flight()
        except MeshError as error:
            self._refused(model, error.code)
            raise
        self.in_flight += 1
        return service

    def _check_in_flight(self) -> None:
        if self.in_flight >= self._max_in_flight:
            raise ResourceExhausted(
                f"{self.name}: {self.in_flight} calls are in flight, which is the bound",
                reason="OVERLOADED",
                rejected=True,
                retry_after_s=OVERLOAD_PUSHBACK_S,
            )


def _not_offered(rpc: str, instead: str) -> Callable[..., Awaitable[Any]]:
    async def refused(self: Servicer, request: Any, call: Call) -> Any:
        await self.admit(rpc, call)
        raise Unimplemented(f"{rpc} is not offered: {instead}", rejected=True)

    refused.__name__ = rpc
    return _answered(refused)


_SHARED_MEMORY = "tensors travel in the message; send them as raw_input_contents"
for _rpc in ("Status", "Register", "Unregister"):
    for _kind in ("System", "Cuda"):
        setattr(Servicer, f"{_kind}SharedMemory{_rpc}", _not_offered(f"{_kind}SharedMemory{_rpc}", _SHARED_MEMORY))
Servicer.TraceSetting = _not_offered("TraceSetting", "spans are set up by configuration (telemetry.otlp_endpoint)")
Servicer.LogSettings = _not_offered("LogSettings", "logs are set up by configuration (telemetry.log_level)")
