"""A service on the other side of a channel."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from infermesh.call import Call
from infermesh.config import BackendConfig
from infermesh.errors import DeadlineExceeded, Internal, MeshError, Unavailable, quoted
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from infermesh.transport.endpoint import Endpoint
from infermesh.transport.endpoints import EndpointObserver, Endpoints
from infermesh.transport.metadata import write_call
from infermesh.transport.resolver import Resolver
from infermesh.transport.status import FINAL_PARAMETER, error_in_stream, error_of, was_not_sent
from infermesh.transport.tls import Observe, ignore

__all__ = ["RemoteService"]

READY_TIMEOUT_S = 1.0  # readiness asks about now; a backend that needs longer to say so is not ready

# What is asked without a deadline would otherwise wait for ever for a backend that hangs, at each hop.
ASK_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 300.0  # a large model is read and warmed up in minutes
GARBAGE = "BACKEND_GARBAGE"

R = TypeVar("R", bound=Message)


class RemoteService(InferenceService, ModelRepository):
    """Everything behind a target, as an InferenceService: answers, errors, deadlines and metadata pass unchanged.

    `version`, when given, is the model version that the request goes out with; the request itself is not changed. `model`
    likewise. `name` is what errors and metrics call this hop. Retries are a filter's matter, which is told by
    `error.endpoint` where an attempt failed and tells by `call.tried` what is to be asked last; but a call for which there was no
    connection, so that no server saw it, is sent to another replica here.

    A replica is called while its health service says SERVING for `""`; one that has no health service is called while it is
    connected. So when every replica drains or starts, calls are refused here with UNAVAILABLE, as not started, though one that
    drains would still take them: it has said that it goes, and what it had is answered. A backend of one replica gains
    nothing by a drain, so its `server.drain` is best short. A call without a deadline has an end all the same, unless it is an
    inference, whose end is a filter's matter (`WithinDeadline`).

    An answer that is no message, or is about another model or request than was asked for, is INTERNAL (BACKEND_GARBAGE).

    With TLS the files are read here, which raises ConfigError for what can't be used, and looked at from then on: where they
    change, new calls go over a new channel, and those under way end on the old one. `observe_tls` is told of it, and
    `observe` of the addresses.
    """

    def __init__(
        self,
        config: BackendConfig,
        name: str,
        *,
        model: str = "",
        version: str = "",
        endpoints: Endpoints | None = None,
        resolver: Resolver | None = None,
        observe: EndpointObserver | None = None,
        observe_tls: Observe = ignore,
    ) -> None:
        self.backend = config
        self.name = name
        self.model = model
        self.version = version
        self._own = endpoints is None
        self._endpoints = endpoints or Endpoints(
            config, name, resolver=resolver, observe=observe, observe_tls=observe_tls
        )
        self._margin_s = config.margin

    def variant(self, *, model: str = "", version: str = "") -> RemoteService:
        """The same backend over the same channels, asked for another model or version; the channels stay this object's."""
        return RemoteService(self.backend, self.name, model=model, version=version, endpoints=self._endpoints)

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        read = functools.partial(self._answer, request)
        return await self._ask("ModelInfer", self._serialised(request), read, call, math.inf, request.model_name)

    async def stream(self, request: pb.ModelInferRequest, call: Call) -> AsyncIterator[pb.ModelInferResponse]:
        data, tried, began = self._serialised(request), call.tried, False
        timeout_s = self._timeout(call)
        endpoint = self._endpoints.pick(tried) or await self._endpoints.wait(timeout_s, tried)
        while True:
            trial, answers, sent_at = endpoint.trial(), endpoint.answers, time.monotonic()
            endpoint.in_flight += 1
            rpc = None
            if (journal := call.journal) is not None:
                journal.endpoint = endpoint.address
            try:
                rpc = endpoint.channel.stream(timeout=timeout_s, metadata=_Outgoing(write_call(call)))
                await rpc.write(data)
                await rpc.done_writing()
                async for answer in rpc:
                    response = self._streamed(request, answer)
                    if not began:
                        began = True
                        endpoint.answered(trial, time.monotonic() - sent_at)
                    yield response
                if not began:
                    endpoint.broke(trial)
                return
            except grpc.aio.AioRpcError as failure:
                failed = [self._judged(failure, endpoint, timeout_s, answers, trial, request.model_name, tried)]
                if began or not was_not_sent(failure):
                    raise failed.pop() from None
            except MeshError as refusal:
                refusal.endpoint = endpoint.address
                if refusal.reason == GARBAGE:
                    endpoint.broke(trial)
                elif not began:
                    endpoint.answered(trial)
                raise
            except (asyncio.CancelledError, grpc.aio.UsageError):
                self._raise_if_closed(endpoint)
                raise
            finally:
                endpoint.in_flight -= 1
                if trial:
                    self._endpoints.give_back(endpoint, trial)
                if rpc is not None:
                    rpc.cancel()
            tried = (*tried, endpoint.address)
            endpoint = self._elsewhere(endpoint, tried, failed)
            timeout_s = self._timeout(call)

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        if self.model or self.version:
            asked = pb.ModelMetadataRequest()
            asked.CopyFrom(request)  # with what this build does not know
            asked.name, asked.version = self.model or request.name, self.version or request.version
            request = asked
        return await self._asked("ModelMetadata", request, pb.ModelMetadataResponse, call)

    async def ready(self, model: str = "", version: str = "") -> bool:
        """What the backend says; false when it does not say."""
        try:
            if not model:
                answer = await self._asked(
                    "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse, Call(), READY_TIMEOUT_S
                )
                return answer.ready
            asked = pb.ModelReadyRequest(name=self.model or model, version=self.version or version)
            return (await self._asked("ModelReady", asked, pb.ModelReadyResponse, Call(), READY_TIMEOUT_S)).ready
        except (Unavailable, DeadlineExceeded):
            return False

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        return await self._asked("RepositoryIndex", request, pb.RepositoryIndexResponse, call)

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        return await self._asked("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse, call, LOAD_TIMEOUT_S)

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        kind = pb.RepositoryModelUnloadResponse
        return await self._asked("RepositoryModelUnload", request, kind, call, LOAD_TIMEOUT_S)

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        return await self._asked("ModelConfig", request, pb.ModelConfigResponse, call)

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        return await self._asked("ModelStatistics", request, pb.ModelStatisticsResponse, call)

    async def close(self) -> None:
        """Close the channels; calls in flight end with UNAVAILABLE, so whoever made them is to be finished first."""
        if self._own:
            await self._endpoints.close()

    def __repr__(self) -> str:
        return f"RemoteService({self.name}{f' version {self.version}' if self.version else ''})"

    async def _asked(
        self, rpc: str, request: Message, answer: type[R], call: Call, longest_s: float = ASK_TIMEOUT_S
    ) -> R:
        return await self._ask(
            rpc, request.SerializeToString(), functools.partial(self._parsed, answer), call, longest_s
        )

    async def _ask(
        self, rpc: str, data: bytes, read: Callable[[bytes], R], call: Call, longest_s: float, model: str = ""
    ) -> R:
        """The answer to a unary RPC. `longest_s` counts where the call has no deadline; infinite: it has no end."""
        timeout_s = self._timeout(call)
        if timeout_s is None and longest_s < math.inf:
            timeout_s = longest_s
        metadata, tried = _Outgoing(write_call(call)), call.tried
        endpoint = self._endpoints.pick(tried) or await self._endpoints.wait(timeout_s, tried)
        while True:
            trial, answers, sent_at = endpoint.trial(), endpoint.answers, time.monotonic()
            endpoint.in_flight += 1
            if (journal := call.journal) is not None:
                journal.endpoint = endpoint.address
            try:
                asked = endpoint.channel.unary(
                    rpc, data, timeout=timeout_s, metadata=metadata, is_ready=endpoint.is_ready
                )
                answer = read(await asked)
            except grpc.aio.AioRpcError as failure:
                failed = [self._judged(failure, endpoint, timeout_s, answers, trial, model, tried, copy=call.shadow)]
                if not was_not_sent(failure):
                    raise failed.pop() from None
            except MeshError as garbage:
                garbage.endpoint = endpoint.address
                if not call.shadow:
                    endpoint.broke(trial)
                raise
            except (asyncio.CancelledError, grpc.aio.UsageError):
                self._raise_if_closed(endpoint)
                raise
            else:
                if not call.shadow:
                    endpoint.answered(trial, time.monotonic() - sent_at if model else None)
                return answer
            finally:
                endpoint.in_flight -= 1
                if trial:
                    self._endpoints.give_back(endpoint, trial)
            tried = (*tried, endpoint.address)
            endpoint = self._elsewhere(endpoint, tried, failed)
            timeout_s = self._timeout(call) or timeout_s

    def _judged(
        self,
        failure: grpc.aio.AioRpcError,
        endpoint: Endpoint,
        timeout_s: float | None,
        answers: int,
        trial: int,
        model: str,
        tried: tuple[str, ...],
        *,
        copy: bool = False,
    ) -> MeshError:
        """What the failure is to the caller; the endpoint is told what it says about it. A shadow's copy says nothing: a
        candidate that fails must not have its backend taken from the primary."""
        had_s = math.inf if timeout_s is None else timeout_s
        if not copy:
            endpoint.failed(failure, had_s=had_s, answers=answers, trial=trial)
        error = error_of(failure, self.name, model)
        error.endpoint = endpoint.address
        if error.retry_after_s is not None:  # the one case in which it matters
            error.elsewhere = self._endpoints.has_other((*tried, endpoint.address))
        return error

    def _elsewhere(self, endpoint: Endpoint, tried: tuple[str, ...], failed: list[MeshError]) -> Endpoint:
        """A ready endpoint for a call that was not sent; raises its error when all have been tried.

        The error is in a list, here and where it is made, to be taken out when it is raised: a frame that held what it raises
        would wait for the garbage collector, and with it the call, which keeps its channel.
        """
        self._endpoints.refresh(endpoint)
        another = self._endpoints.another(tried)
        if another is None:
            raise failed.pop() from None
        return another

    def _raise_if_closed(self, endpoint: Endpoint) -> None:
        """grpc cancels the calls of a channel that is closed; that is an answer to them, and no wish of their caller."""
        task = asyncio.current_task()
        if endpoint.channel.closed and not (task and task.cancelling()):
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

    def _streamed(self, request: pb.ModelInferRequest, data: bytes) -> pb.ModelInferResponse:
        message = self._parsed(pb.ModelStreamInferResponse, data)
        if message.error_message:
            raise error_in_stream(message, self.name)
        response = self._checked(request, message.infer_response)
        if FINAL_PARAMETER in response.parameters and response.parameters[FINAL_PARAMETER].bool_param:
            del response.parameters[FINAL_PARAMETER]  # of this stream; a stream that it goes into says it anew
        return response

    def _answer(self, request: pb.ModelInferRequest, data: bytes) -> pb.ModelInferResponse:
        try:
            response = pb.ModelInferResponse.FromString(data)
        except DecodeError:
            raise self._garbage("is no inference.ModelInferResponse") from None
        if not (
            response.model_name or response.id or response.outputs
        ):  # 0 bytes, say; a stream may end with such a one
            raise self._garbage("names no model and no request, and has no outputs")
        return self._checked(request, response)

    def _checked(self, request: pb.ModelInferRequest, response: pb.ModelInferResponse) -> pb.ModelInferResponse:
        """The response, if it can be one to this request; servers of other makers may leave name and id out."""
        name = response.model_name
        if name and name != (self.model or request.model_name):
            raise self._garbage(f"is of the model {quoted(name)}, not {quoted(self.model or request.model_name)}")
        if request.id and (answered := response.id) and answered != request.id:
            raise self._garbage(f"is to the request {quoted(answered)}, not {quoted(request.id)}")
        return response

    def _parsed(self, kind: type[R], data: bytes) -> R:
        try:
            return kind.FromString(data)
        except DecodeError:
            raise self._garbage(f"is no {kind.DESCRIPTOR.full_name}") from None

    def _garbage(self, what: str) -> Internal:
        return Internal(f"{self.name}: its answer {what}", reason=GARBAGE, hop=self.name)

    def _timeout(self, call: Call) -> float | None:
        if call.deadline.at == math.inf:
            return None
        remaining = call.deadline.remaining()
        if remaining <= 0:
            raise DeadlineExceeded(f"{self.name}: no time left to ask it", rejected=True)
        return max(remaining - self._margin_s, remaining / 2)


class _Outgoing(grpc.aio.Metadata):  # type: ignore[misc]  # grpc is without types here
    """Metadata that is written once and read once: grpc would copy a list into a dictionary of lists, 2 µs for each call."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)
