"""A gRPC server as an ASGI application: what answers, whatever brings the calls."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import grpc

from infermesh.transport.asgi.answer import Send, refuse_http
from infermesh.transport.asgi.context import Context
from infermesh.transport.asgi.identity import Identities
from infermesh.transport.asgi.limits import Limits, Unfinished
from infermesh.transport.asgi.method import Method, method_of
from infermesh.transport.asgi.requests import Receive, Requests, read_only
from infermesh.transport.asgi.ticker import Ticker
from infermesh.transport.asgi.wire import WireError, is_grpc

__all__ = ["Application"]

DEFAULT_BYTES = 4 << 20  # grpc's own limit of a message
UNFINISHED_MESSAGES, UNFINISHED_BYTES = 8, 256 << 20  # of all calls together; whichever is more
END_S = 5.0  # for methods that are ended to end

_log = logging.getLogger(__name__)


class Application:
    """Takes the servicers of generated code like `grpc.aio.Server`, and is called like an ASGI 3 application.

    The host must speak HTTP/2 with trailers, and drive it on one event loop. Methods are coroutines or asynchronous generators;
    there are no interceptors. Messages over `max_receive` or `max_send` bytes are refused with RESOURCE_EXHAUSTED, and calls by
    whose unfinished requests more than `max_unfinished` bytes would be held (0: eight messages, or 256 MiB). With
    `trusts_certificates` the peer's identity is what `x-forwarded-client-cert` says (see `Identities`).
    """

    def __init__(
        self,
        *,
        max_receive: int = DEFAULT_BYTES,
        max_send: int = DEFAULT_BYTES,
        max_unfinished: int = 0,
        trusts_certificates: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ticker: Ticker[Context] = Ticker(clock)
        unfinished = Unfinished(max_unfinished or max(UNFINISHED_MESSAGES * max_receive, UNFINISHED_BYTES))
        self._limits = Limits(max_receive, max_send, Identities(trusted=trusts_certificates), clock, unfinished)
        self._methods: dict[str, Method] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_leaving = False
        self._is_empty = asyncio.Event()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Handlers that are asked for a method when it is called first; what they answer is kept."""
        self._generic += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """The methods of a service, by their names."""
        for name, handler in method_handlers.items():
            path = f"/{service_name}/{name}"
            self._methods[path] = method_of(path, handler)

    @property
    def in_flight(self) -> int:
        """Calls that have come and are not over, streams that only watch included."""
        return len(self.ticker.calls)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait for those in flight within the grace, and end the rest."""
        self._is_leaving = True
        if self.ticker.calls and grace_s > 0:
            await self._emptied(grace_s)
        for call in list(self.ticker.calls):
            call.revoke()
        if self.ticker.calls:
            await self._emptied(END_S)

    async def _emptied(self, timeout_s: float) -> None:
        self._is_empty.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_empty.wait()
        except TimeoutError:
            pass

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One call. Whatever happens in it, nothing is raised: a host would answer what gRPC's clients take for success.

        Not even when the host cancels it: CANCELLED is sent, and nothing comes after it.
        """
        if scope["type"] != "http":
            await _beside(scope, receive, send)
            return
        method = self._methods.get(scope["path"]) or self._found(scope["path"])
        # A loop that is known is not looked up: that asks the system for the process each time (CPython 3.11), 1 µs.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        call = Context(self._limits, method, scope, receive, send, asyncio.current_task(loop))
        try:
            try:
                if call.headers.get(b"content-type") != b"application/grpc" and await _is_other(call, send):
                    return
                if self._is_leaving:
                    raise WireError(grpc.StatusCode.UNAVAILABLE, "this replica is leaving")
                call.open()
                self.ticker.add(call)
                if method.request_streaming:
                    call.requests = request = Requests(receive, call, method.parsed)
                else:
                    call.is_reading = True
                    data = await read_only(receive, call)
                    call.is_reading = False
                    if data is None or call.is_over:
                        call.is_gone = True
                        return
                    if call.is_cut:  # as the request came; its status is not sent yet
                        raise asyncio.CancelledError
                    call.is_half_closed = True
                    request = method.parsed(data)
                if method.response_streaming:
                    await _stream(method.behaviour(request, call), call)
                else:
                    await call.answer_only(await method.behaviour(request, call))
            except BaseException as error:
                await call.end_by(error)
        except BaseException as error:
            _log.error("%s could not be answered: %s", method.path, error, exc_info=error)
        finally:
            self.ticker.remove(call)
            call.close()
            if self._is_leaving and not self.ticker.calls:
                self._is_empty.set()

    def _found(self, path: str) -> Method:
        """The method of a path that no one has called before."""
        details = _Details(path, ())
        try:
            for handler in self._generic:
                if (found := handler.service(details)) is not None:
                    method = self._methods[path] = method_of(path, found)
                    return method
        except BaseException as error:
            _log.error("a generic handler could not be asked for a method: %s", error, exc_info=error)
        return _UNKNOWN


class _Details(NamedTuple):
    """What a generic handler is asked by: `grpc.HandlerCallDetails`, without metadata, since what it says is kept."""

    method: str
    invocation_metadata: tuple[()]


async def _stream(answers: Any, call: Context) -> None:
    """The answers of a method: a generator's, which is closed in any case, or those that a coroutine writes."""
    if hasattr(answers, "__aiter__"):
        try:
            async for answer in answers:
                await call.write(answer)
        finally:
            if hasattr(answers, "aclose"):
                await answers.aclose()
    else:
        await answers
    await call.end()


async def _is_other(call: Context, send: Send) -> bool:
    """Whether the request is not gRPC's; then it is answered in HTTP's words."""
    if is_grpc(call.headers.get(b"content-type", b"")):
        return False
    await refuse_http(send, 415, "expected content-type: application/grpc")
    return True


async def _beside(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """The life of the host, of which nothing depends; anything else is not served."""
    if scope["type"] != "lifespan":
        raise ValueError(f"expected calls over HTTP, got {scope['type']!r}")
    while True:
        event = (await receive())["type"].removeprefix("lifespan.")
        await send({"type": f"lifespan.{event}.complete"})
        if event == "shutdown":
            return


async def _unknown(request: Any, call: Context) -> Any:
    raise WireError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


_UNKNOWN = Method("an unknown method", _unknown, bytes, bytes, request_streaming=True, response_streaming=False)
