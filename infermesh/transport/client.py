"""A service on the other side of a channel."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from infermesh.call import Call
from infermesh.config import BackendConfig
from infermesh.errors import DeadlineExceeded, Internal, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from infermesh.transport.metadata import write_call
from infermesh.transport.status import FINAL_PARAMETER, error_in_stream, error_of

__all__ = ["RemoteService"]

SERVICE = "/inference.GRPCInferenceService/"
READY_TIMEOUT_S = 1.0  # readiness asks about now; a backend that needs longer to say so is not ready

ASK_TIMEOUT_S = (
    10.0  # what is asked without a deadline would otherwise wait for ever for a backend that hangs, at each hop
)
LOAD_TIMEOUT_S = 300.0  # a large model is read and warmed up in minutes

# One HTTP/2 connection sticks to one replica; round robin over all resolved addresses does not. It leaves out a replica whose
# health is not SERVING (gRFC A17): one that starts, and one that drains, which would else be called until its port is closed.
SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})

R = TypeVar("R", bound=Message)


class RemoteService(InferenceService, ModelRepository):
    """Everything behind a target, as an InferenceService: answers, errors, deadlines and metadata pass unchanged.

    `version`, when given, is the model version that the request goes out with; the request itself is not changed. `model`
    likewise. `name` is what errors and metrics call this hop. Retries are a filter's matter, but a call that the connection
    refused before any server saw it is sent again by grpc itself.

    A replica is called while its health service says SERVING for `""`; one that has no health service is called while it is
    connected. So when every replica drains or starts, calls are refused here with UNAVAILABLE, as not started, though one that
    drains would still take them: it has said that it goes, and what it had is answered. A backend of one replica gains
    nothing by a drain, so its `server.drain` is best short. A call without a deadline has an end all the same, unless it is an
    inference, whose end is a filter's matter (`WithinDeadline`).
    """

    def __init__(
        self, config: BackendConfig, name: str, *, model: str = "", version: str = "", channel: Channel | None = None
    ) -> None:
        self.backend = config
        self.name = name
        self.model = model
        self.version = version
        self._own = channel is None
        self._channel = channel or Channel(config)
        self._margin_s = config.margin

    def variant(self, *, model: str = "", version: str = "") -> RemoteService:
        """The same backend over the same channel, asked for another model or version; the channel stays this object's."""
        return RemoteService(self.backend, self.name, model=model, version=version, channel=self._channel)

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        data = self._serialised(request)
        try:
            answer = await self._channel.infer(data, timeout=self._timeout(call), metadata=_Outgoing(write_call(call)))
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure, self.name, request.model_name) from None
        except (asyncio.CancelledError, grpc.aio.UsageError):
            self._raise_if_closed()
            raise
        return self._parsed(pb.ModelInferResponse, answer)

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        rpc = None
        try:
            rpc = self._channel.stream(timeout=self._timeout(call), metadata=_Outgoing(write_call(call)))
            await rpc.write(self._serialised(request))
            await rpc.done_writing()
            async for data in rpc:
                message = self._parsed(pb.ModelStreamInferResponse, data)
                if message.error_message:
                    raise error_in_stream(message, self.name)
                response = message.infer_response
                if FINAL_PARAMETER in response.parameters:  # of this stream; a stream that it goes into says it anew
                    del response.parameters[FINAL_PARAMETER]
                yield response
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure, self.name, request.model_name) from None
        except (asyncio.CancelledError, grpc.aio.UsageError):
            self._raise_if_closed()
            raise
        finally:
            if rpc is not None:
                rpc.cancel()

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        if self.model or self.version:
            asked = pb.ModelMetadataRequest()
            asked.CopyFrom(request)  # with what this build does not know
            asked.name, asked.version = self.model or request.name, self.version or request.version
            request = asked
        return await self._ask("ModelMetadata", request, pb.ModelMetadataResponse, call)

    async def ready(self, model: str = "", version: str = "") -> bool:
        """What the backend says; false when it does not say."""
        try:
            if not model:
                data = await self._channel.unary("ServerReady", b"", timeout=READY_TIMEOUT_S)
                return pb.ServerReadyResponse.FromString(data).ready
            asked = pb.ModelReadyRequest(name=self.model or model, version=self.version or version)
            data = await self._channel.unary("ModelReady", asked.SerializeToString(), timeout=READY_TIMEOUT_S)
            return pb.ModelReadyResponse.FromString(data).ready
        except grpc.aio.AioRpcError as failure:
            error = error_of(failure, self.name)
            if isinstance(error, (Unavailable, DeadlineExceeded)):
                return False
            raise error from None
        except grpc.aio.UsageError:
            if not self._channel.closed:
                raise
            return False

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        return await self._ask("RepositoryIndex", request, pb.RepositoryIndexResponse, call)

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        return await self._ask("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse, call, LOAD_TIMEOUT_S)

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        return await self._ask("RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse, call, LOAD_TIMEOUT_S)

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        return await self._ask("ModelConfig", request, pb.ModelConfigResponse, call)

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        return await self._ask("ModelStatistics", request, pb.ModelStatisticsResponse, call)

    async def close(self) -> None:
        """Close the channel; calls in flight end with UNAVAILABLE, so whoever made them is to be finished first."""
        if self._own:
            await self._channel.close()

    def __repr__(self) -> str:
        return f"RemoteService({self.name}{f' version {self.version}' if self.version else ''})"

    async def _ask(
        self, rpc: str, request: Message, answer: type[R], call: Call, longest_s: float = ASK_TIMEOUT_S
    ) -> R:
        timeout = self._timeout(call)
        try:
            data = await self._channel.unary(
                rpc,
                request.SerializeToString(),
                timeout=longest_s if timeout is None else timeout,
                metadata=_Outgoing(write_call(call)),
            )
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure, self.name) from None
        except (asyncio.CancelledError, grpc.aio.UsageError):
            self._raise_if_closed()
            raise
        return self._parsed(answer, data)

    def _raise_if_closed(self) -> None:
        """grpc cancels the calls of a channel that is closed; that is an answer to them, and no wish of their caller."""
        task = asyncio.current_task()
        if self._channel.closed and not (task and task.cancelling()):
            raise Unavailable(f"{self.name}: its channel was closed", reason="CHANNEL_CLOSED", hop=self.name) from None

    def _serialised(self, request: pb.ModelInferRequest) -> bytes:
        """The request's bytes with the chosen model and version, which are written and taken back with no await in between."""
        if not (self.model or self.version):
            return request.SerializeToString()
        model, version = request.model_name, request.model_version
        try:
            request.model_name = self.model or model
            request.model_version = self.version or version
            return request.SerializeToString()
        finally:
            request.model_name = model
            request.model_version = version

    def _parsed(self, kind: type[R], data: bytes) -> R:
        try:
            return kind.FromString(data)
        except DecodeError:
            raise Internal(
                f"{self.name}: its answer is no {kind.DESCRIPTOR.full_name}", reason="BACKEND_GARBAGE", hop=self.name
            ) from None

    def _timeout(self, call: Call) -> float | None:
        if call.deadline.at == math.inf:
            return None
        remaining = call.deadline.remaining()
        if remaining <= 0:
            raise DeadlineExceeded(f"{self.name}: no time left to ask it", rejected=True)
        return max(remaining - self._margin_s, remaining / 2)


class Channel:
    """One gRPC channel and the byte-level calls on it; messages are serialised by us, so that no request is held back changed."""

    def __init__(self, config: BackendConfig) -> None:
        targets = [config.target] if isinstance(config.target, str) else config.target
        self.target = f"ipv4:{','.join(targets)}" if len(targets) > 1 else targets[0]
        self._channel = grpc.aio.insecure_channel(self.target, options=_options(config))
        self.infer: Callable[..., Any] = self._channel.unary_unary(f"{SERVICE}ModelInfer")
        self.stream: Callable[..., Any] = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        self._unary: dict[str, Callable[..., Any]] = {}
        self.closed = False

    def unary(self, rpc: str, data: bytes, **options: Any) -> Any:
        method = self._unary.get(rpc)
        if method is None:
            method = self._unary[rpc] = self._channel.unary_unary(SERVICE + rpc)
        return method(data, **options)

    async def close(self) -> None:
        self.closed = True
        await self._channel.close()


class _Outgoing(grpc.aio.Metadata):  # type: ignore[misc]  # grpc is without types here
    """Metadata that is written once and read once: grpc would copy a list into a dictionary of lists, 2 µs for each call."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


def _options(config: BackendConfig) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", config.max_message),
        ("grpc.max_receive_message_length", config.max_message),
        ("grpc.service_config", SERVICE_CONFIG),
        (
            "grpc.enable_http_proxy",
            0,
        ),  # a proxy for the way out of the cluster, from the environment, is none to a service
        ("grpc.use_local_subchannel_pool", 1),  # a breaker's view of a backend must not be shared by accident
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),  # is also how long one attempt to connect may take
        ("grpc.max_reconnect_backoff_ms", 250),  # a backend that comes back is used while retries still wait for it
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ("grpc.keepalive_time_ms", 30_000),  # finds a peer that vanished without a word
        ("grpc.keepalive_timeout_ms", 5_000),
    ]
