"""The gRPC server of a service: OIP, health and reflection on one port."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from infermesh.config import PortTaken, ServerConfig, ServerTlsConfig
from infermesh.errors import ResourceExhausted
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc
from infermesh.service import Stack
from infermesh.transport.health import Health
from infermesh.transport.peer import Patterns
from infermesh.transport.servicer import OVERLOAD_PUSHBACK_S, Malformed, Servicer
from infermesh.transport.status import status_of
from infermesh.transport.tls import Observe, Pem, follow, ignore, read_server
from infermesh.transport.tools import Tools

__all__ = ["Server"]

OIP = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
HEALTH = health.SERVICE_NAME
REFLECTION = reflection.SERVICE_NAME
LIVE = "live"
LEAST_WAITING = 4096  # calls that grpc keeps until Python asks for them
LONGEST_CALL_S = 3600  # on a connection past its age: who takes an answer that slowly, or never, has had its time

_log = logging.getLogger(__name__)


def _ignore(model: str, code: str) -> None:
    """Count nothing."""


class Server:
    """A port on which a service answers.

    It listens from `start` on, says NOT_SERVING and answers UNAVAILABLE until a service is mounted and `set_ready(True)` is
    called. `stop` answers every call that it has accepted within the grace. `inside_mesh` means that callers are hops of the
    mesh, whose `x-infermesh-*` metadata is believed; where clients show certificates, of those with a mesh identity alone.
    `refused` is told model and code of every inference that is refused before the service sees it; grpc's core refuses some by
    itself (a message over the limit), of which nobody hears. `observe_tls` is told of each look at changed certificates.
    `tools` are the full names of RPCs beside OIP, which the service that is mounted may offer. `carrier` takes servicers as
    `grpc.aio.Server` does and is reached in another way: no port is listened on here, and TLS is its affair.
    """

    def __init__(
        self,
        name: str,
        config: ServerConfig,
        *,
        inside_mesh: bool,
        refused: Callable[[str, str], None] = _ignore,
        observe_tls: Observe = ignore,
        tools: Sequence[str] = (),
        carrier: Any = None,
    ) -> None:
        self.config = config
        self._observe_tls = observe_tls
        self._certificate: _Certificate | None = None
        self.port = 0
        self._servicer = Servicer(
            name, config.max_in_flight, config.max_streams, inside_mesh=inside_mesh, refused=refused
        )
        if config.tls is not None and config.tls.client_ca is not None:
            if inside_mesh and not config.mesh_identities:
                _log.warning(
                    "server.mesh_identities is empty: what callers say of tenant, variant and shadow is dropped"
                )
            self._servicer.know_peers(Patterns(config.mesh_identities))
        self._health = Health()
        self._leaving = asyncio.Event()
        self._held = _Held(self._servicer, config.max_in_flight, refused)
        self._carried = carrier is not None
        self._server = carrier if self._carried else grpc.aio.server(options=_options(config))
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_departure)
        registrar: Any = _Registrar(self._server, self._leaving, self._held, config.max_streams)
        pb_grpc.add_GRPCInferenceServiceServicer_to_server(self._servicer, registrar)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, registrar)
        self._tools = Tools(tools, name, lambda context: self._servicer.call(context))
        self._server.add_generic_rpc_handlers(tuple(self._tools.handlers()))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            ReflectionServicer((OIP, HEALTH, REFLECTION, *self._tools.services)), registrar
        )

    async def start(self) -> None:
        """Listen. Raises PortTaken, and ConfigError for certificates that can't be used."""
        if not self._carried:
            await self._listen()
        await self.set_ready(False)
        self._health.set(LIVE, serving=True)
        if not self._carried:
            await self._server.start()
        if self._certificate is not None:
            self._certificate.follow()

    async def _listen(self) -> None:
        address = f"{self.config.host}:{self.config.grpc_port}"
        if (tls := self.config.tls) is not None:
            self._certificate = _Certificate(await asyncio.to_thread(read_server, tls), tls, self._observe_tls)
        try:
            if self._certificate is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, self._certificate.credentials())
        except RuntimeError:
            raise PortTaken(f"gRPC port {address} can't be listened on: it is taken, or not allowed") from None

    def mount(self, service: Stack) -> None:
        """From now on this service answers."""
        self._servicer.service = service
        self._tools.service = service

    async def set_ready(self, ready: bool) -> None:
        """What health and ServerReady say; a change reaches those who watch."""
        self._servicer.ready = ready
        for name in ("", OIP):
            self._health.set(name, serving=ready)

    @property
    def is_ready(self) -> bool:
        """What health says."""
        return self._servicer.ready

    @property
    def is_empty(self) -> bool:
        """Whether no service has been mounted yet."""
        return self._servicer.service is None

    @property
    def in_flight(self) -> int:
        """Inference calls that are being worked on."""
        return self._servicer.in_flight

    async def stop(self, grace_s: float) -> None:
        """Take no new call, answer those that were accepted within the grace, end the rest. To be called once or more."""
        self._leaving.set()
        self._servicer.leave()
        if self._certificate is not None:
            self._certificate.close()
        await self._server.stop(grace_s)


class _Certificate:
    """What the port shows to new connections; those that are open keep what they were opened with."""

    def __init__(self, pem: Pem, tls: ServerTlsConfig, observe: Observe) -> None:
        self._pem = pem
        self._tls = tls
        self._observe = observe
        self._new: grpc.ServerCertificateConfiguration | None = None
        self._following: asyncio.Future[None] | None = None
        observe(True, pem.expires_at)

    def credentials(self) -> grpc.ServerCredentials:
        requires = self._tls.client_ca is not None  # grpc for Python asks for no certificate that it does not require
        return grpc.dynamic_ssl_server_credentials(_shown(self._pem), self._fetch, requires)

    def follow(self) -> None:
        """Look at the files from now on."""
        read = functools.partial(read_server, self._tls)
        self._following = asyncio.ensure_future(
            follow(self._pem, read, self._adopt, self._observe, self._tls.look_every)
        )

    def close(self) -> None:
        if self._following is not None:
            self._following.cancel()

    async def _adopt(self, pem: Pem) -> bool:
        self._new = _shown(pem)
        return True

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by grpc before each handshake, in a thread of its own; None: no change."""
        new, self._new = self._new, None
        return new


def _shown(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.ca or None)


class _Held:
    """Counts ModelInfer calls until their callers have taken the answer, and refuses more than `most`.

    An answer that is not taken stays in memory, several times over, for as long as its caller likes: gRPC for Python has no way
    to end a call by itself. Streams need nothing of the kind: they wait for their callers.
    """

    def __init__(self, servicer: Servicer, most: int, refused: Callable[[str, str], None]) -> None:
        self.count = 0
        self._servicer = servicer
        self._most = most
        self._refused = refused

    def bounded(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def infer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            if self.count >= self._most > self._servicer.in_flight:  # else the servicer refuses, and says that
                await self._refuse(request, context)
            self.count += 1
            context.add_done_callback(self._ended)
            return await behaviour(request, context)

        return infer

    def _ended(self, _: Any) -> None:
        self.count -= 1

    async def _refuse(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        error = ResourceExhausted(
            f"{self._servicer.name}: {self.count} calls are in flight or have not taken their answers, which is the bound",
            reason="OVERLOADED",
            rejected=True,
            retry_after_s=OVERLOAD_PUSHBACK_S,
        )
        self._refused(getattr(request, "model_name", ""), error.code)
        await context.abort(*status_of(error, self._servicer.name))


def _is_no_departure(record: logging.LogRecord) -> bool:
    """Whether a line of grpc's is about anything else than a caller who left while its answer was on the way: for each of them it
    would write an error with a traceback."""
    return not str(record.msg).startswith("ExecuteBatchError raised in core by servicer method")


class _Registrar:
    """Stands before grpc's server while servicers are added, and mends three things that generated code leaves to grpc.

    Bytes that are no message reach the method as `Malformed`, to be answered INVALID_ARGUMENT (grpc.aio alone: INTERNAL). Streams
    that only watch (health, reflection) end when the server leaves: they would hold it for the whole grace. They need no
    credentials, and no more than `most` of a kind are open; each hop before us has one for each of its connections. Answers that
    wait for their callers are bounded.
    """

    def __init__(self, server: grpc.aio.Server, leaving: asyncio.Event, held: _Held, most: int) -> None:
        self._server = server
        self._most = most
        self._leaving = leaving
        self._held = held

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        """Nothing to do: generated code registers the same methods once more, by name."""

    def add_registered_method_handlers(self, service: str, methods: dict[str, grpc.RpcMethodHandler]) -> None:
        mended = {name: self._mended(name, method, watching=service != OIP) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, mended),))

    def _mended(self, name: str, method: Any, *, watching: bool) -> grpc.RpcMethodHandler:
        if method.request_streaming and method.response_streaming:
            behaviour = _until(self._leaving, self._most, method.stream_stream) if watching else method.stream_stream
            make: Callable[..., Any] = grpc.stream_stream_rpc_method_handler
        elif method.response_streaming:
            behaviour = _until(self._leaving, self._most, method.unary_stream) if watching else method.unary_stream
            make = grpc.unary_stream_rpc_method_handler
        else:
            behaviour, make = method.unary_unary, grpc.unary_unary_rpc_method_handler
            if name == "ModelInfer":
                behaviour = self._held.bounded(behaviour)
        return make(
            behaviour,
            _lenient(method.request_deserializer) if not watching else method.request_deserializer,
            method.response_serializer,
        )


def _lenient(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return Malformed(len(data))

    return parsed


def _until(
    leaving: asyncio.Event, most: int, behaviour: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Awaitable[None]]:
    watching = 0

    async def watched(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        nonlocal watching
        if watching >= most:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{watching} streams of this kind are open, which is the bound"
            )
        watching += 1
        try:
            await watch(request, context)
        finally:
            watching -= 1

    async def watch(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        async def answer() -> None:
            result = behaviour(request, context)
            if hasattr(result, "__aiter__"):
                async for message in result:
                    await context.write(message)
            else:
                await result

        work = asyncio.ensure_future(answer())
        leave = asyncio.ensure_future(leaving.wait())
        try:
            await asyncio.wait({work, leave}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
            else:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this replica is leaving")
        finally:
            work.cancel()
            leave.cancel()

    return watched


def _options(config: ServerConfig) -> list[tuple[str, Any]]:
    waiting = max(LEAST_WAITING, config.max_in_flight)
    options: list[tuple[str, Any]] = [
        ("grpc.so_reuseport", 0),  # a second process on the port is a mistake that must be seen
        ("grpc.max_send_message_length", config.max_message),
        ("grpc.max_receive_message_length", config.max_message),
        # Calls that Python has not seen yet, while its loop is busy. By itself grpc ends them with CANCELLED, more and more of
        # them from 1,000 on, whoever made them; a status that says what is the matter is the servicer's to give.
        ("grpc.server.max_pending_requests", waiting),
        ("grpc.server.max_pending_requests_hard_limit", waiting),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # the mesh's own channels ping every 30 s
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_time_ms", 60_000),  # finds a caller that vanished without a word, whose streams would stay
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),  # a stream on which nobody says anything is looked after too
    ]
    if config.max_connection_age:
        options.append(("grpc.max_connection_age_ms", int(config.max_connection_age * 1000)))
        # A connection goes when the last call that came over it is answered, but nobody holds one by reading nothing.
        options.append(("grpc.max_connection_age_grace_ms", int(LONGEST_CALL_S * 1000)))
    return options


_ = reflection_pb2  # registers the reflection service's descriptor, which the reflection servicer looks up by name
