"""A caller that is no hop of the mesh: the command line's way to ask any OIP server."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc
from infermesh.transport.probe import ClientTls, open_channel
from infermesh.transport.status import error_in_stream, error_of

__all__ = ["OutsideCaller"]

API_KEY = "x-api-key"

R = TypeVar("R", bound=Message)


class OutsideCaller:
    """Blocking calls to one target, with the key of a caller; any thread may use it. A context manager.

    Every method raises a MeshError for a status other than OK. `timeout_s` is the deadline of each call. `metadata` goes with
    every call; keys are in lower case. Making one with `tls` raises OSError for files that can't be read.
    """

    def __init__(
        self,
        target: str,
        key: str = "",
        *,
        timeout_s: float = 30.0,
        metadata: Sequence[tuple[str, str]] = (),
        tls: ClientTls | None = None,
    ) -> None:
        self.target = target
        self.timeout_s = timeout_s
        self._metadata = [*([(API_KEY, key)] if key else []), *metadata]
        limit = 2**31 - 1  # what the server sends is its own to bound
        options = [("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit)]
        options += [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channel = open_channel(target, options, tls)
        self._stub: Any = pb_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, request: pb.ModelInferRequest, metadata: Sequence[tuple[str, str]] = ()) -> pb.ModelInferResponse:
        return self._call("ModelInfer", request, pb.ModelInferResponse, metadata)

    def stream(self, request: pb.ModelInferRequest) -> Generator[pb.ModelInferResponse, None, None]:
        """The answers to one request, as they come; raises midway what the stream tells. Closing it cancels the call."""
        answers = self._stub.ModelStreamInfer(iter([request]), timeout=self.timeout_s, metadata=self._metadata)
        try:
            for message in answers:
                if message.error_message:
                    raise error_in_stream(message, self.target)
                if message.infer_response.outputs:  # a stream may end with a mark that it ends
                    yield message.infer_response
        except grpc.RpcError as failure:
            raise error_of(cast(grpc.aio.AioRpcError, failure), self.target) from None
        finally:
            answers.cancel()

    def metadata(self, model: str, version: str = "") -> pb.ModelMetadataResponse:
        return self._call(
            "ModelMetadata", pb.ModelMetadataRequest(name=model, version=version), pb.ModelMetadataResponse
        )

    def server(self) -> pb.ServerMetadataResponse:
        """Name, version and extensions of who answers."""
        return self._call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)

    def is_ready(self) -> bool:
        return self._call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready

    def index(self, *, only_ready: bool = False) -> pb.RepositoryIndexResponse:
        return self._call("RepositoryIndex", pb.RepositoryIndexRequest(ready=only_ready), pb.RepositoryIndexResponse)

    def config(self, model: str, version: str = "") -> pb.ModelConfig:
        """How a model is served, in Triton's form."""
        request = pb.ModelConfigRequest(name=model, version=version)
        return self._call("ModelConfig", request, pb.ModelConfigResponse).config

    def statistics(self, model: str, version: str = "") -> list[pb.ModelStatistics]:
        """What the loaded versions have done, or one of them, in Triton's form."""
        request = pb.ModelStatisticsRequest(name=model, version=version)
        return list(self._call("ModelStatistics", request, pb.ModelStatisticsResponse).model_stats)

    def load(self, model: str, parameters: Mapping[str, int | str] | None = None) -> None:
        """Load a model; with the parameters that the server knows, something else of it."""
        request = pb.RepositoryModelLoadRequest(model_name=model)
        for name, value in (parameters or {}).items():
            if isinstance(value, int):
                request.parameters[name].int64_param = value
            else:
                request.parameters[name].string_param = value
        self._call("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)

    def unload(self, model: str) -> None:
        request = pb.RepositoryModelUnloadRequest(model_name=model)
        self._call("RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse)

    def call(self, method: str, request: Message, answer: type[R]) -> R:
        """An RPC beside OIP, by its full name: `package.Service/Method`."""
        ask = self._channel.unary_unary(
            f"/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return self._asked(ask, request, answer)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> OutsideCaller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(self, rpc: str, request: Message, answer: type[R], metadata: Sequence[tuple[str, str]] = ()) -> R:
        return self._asked(getattr(self._stub, rpc), request, answer, metadata)

    def _asked(self, ask: Any, request: Message, answer: type[R], metadata: Sequence[tuple[str, str]] = ()) -> R:
        try:
            response = ask(request, timeout=self.timeout_s, metadata=[*self._metadata, *metadata])
        except grpc.RpcError as failure:  # has code, details and trailing metadata, as the one of grpc.aio
            raise error_of(cast(grpc.aio.AioRpcError, failure), self.target) from None
        return cast(R, response)
