"""The context of one call, as gRPC's servicers know it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc

from infermesh.transport.asgi.call import Call
from infermesh.transport.asgi.encodings import COMPRESSIONS, accepts
from infermesh.transport.asgi.identity import peer_of
from infermesh.transport.asgi.metadata import Metadata, decoded_metadata, encoded_metadata

__all__ = ["Context"]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Context(Call):
    """Everything of `grpc.aio.ServicerContext`."""

    # What servicers ask for.

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The caller's; the values of `-bin` names are bytes."""
        if self._metadata is None:
            self._metadata = tuple(decoded_metadata(self.scope["headers"]))
        return self._metadata

    def peer(self) -> str:
        return peer_of(self.scope)

    def auth_context(self) -> Mapping[str, list[bytes]]:
        return self.limits.identities.of(self.scope, self.headers)

    def peer_identities(self) -> Iterable[bytes] | None:
        """None: names are read from the certificate in `auth_context`."""
        return None

    def peer_identity_key(self) -> str | None:
        return None

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self.deadline == math.inf else max(0.0, self.deadline - self.limits.clock())

    def code(self) -> grpc.StatusCode | None:
        """What was set; None while nothing was."""
        code = self._code if self._final is None else self._final[0]
        return code if self.is_over or code is not grpc.StatusCode.OK else None

    def details(self) -> str:
        return self._final[1] if self._final is not None else self._details

    def trailing_metadata(self) -> Metadata:
        return self._trailing

    def cancelled(self) -> bool:
        return self.is_gone or (self._final is not None and self._final[0] is grpc.StatusCode.CANCELLED)

    def done(self) -> bool:
        return self.is_over

    def is_active(self) -> bool:
        return not self.is_over

    def cancel(self) -> None:
        """End the call with CANCELLED, and its method."""
        self._end_now(grpc.StatusCode.CANCELLED, "the call was cancelled")

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """It is called with this context when the call is over, however it ends."""
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    # What servicers tell.

    def set_code(self, code: grpc.StatusCode | int) -> None:
        self._code = _code(code)
        self._is_plain = False

    def set_details(self, details: str) -> None:
        self._details = details
        self._is_plain = False

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Raises ValueError for what can't be sent."""
        self._trailing = trailing_metadata = tuple(trailing_metadata)
        self._trailing_pairs = encoded_metadata(trailing_metadata)  # an answer is as plain with them

    def set_compression(self, compression: grpc.Compression) -> None:
        """Of the answers; it counts where the caller can unpack it. To be set before the first of them."""
        if self.is_started:
            raise grpc.aio.UsageError("the answer has begun: its compression can't be changed")
        encoding = COMPRESSIONS.get(compression)
        if encoding is not None and accepts(self.headers.get(b"grpc-accept-encoding", b""), encoding):
            self.encoding = encoding
            self._is_plain = False

    def disable_next_message_compression(self) -> None:
        self._is_compressing_next = False

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """At once. Raises ValueError for what can't be sent."""
        if self.is_started:
            raise grpc.aio.UsageError("initial metadata can be sent once, before the first answer")
        pairs = encoded_metadata(initial_metadata)
        self._is_plain = False
        try:
            await self.send_head(pairs, now=True)
        except OSError:
            await self._left()

    async def read(self) -> Any:
        """The next request of a stream; `grpc.aio.EOF` after the last one."""
        if self.requests is None and self.is_over:
            return grpc.aio.EOF
        if self.requests is None:
            raise grpc.aio.UsageError("read() is for methods that take a stream of requests")
        return await self.requests.read()

    async def write(self, message: Any) -> None:
        """Send one answer of a stream. Waits while the caller does not read; CancelledError when it has gone."""
        if not self.method.response_streaming:
            raise grpc.aio.UsageError("write() is for methods that answer by a stream")
        if self.is_over or self._final is not None:
            raise asyncio.CancelledError
        data = self.checked(self.method.serialise(message))
        compress, self._is_compressing_next = self._is_compressing_next, True
        try:
            if not self.is_started:
                await self.send_head([])
            await self.send_message(data, compress=compress)
        except OSError:
            await self._left()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call with this status; raises, always."""
        if self._is_aborted:
            raise grpc.aio.UsageError("abort was called before")
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        if self._final is None:
            code = _code(code)
            self._final = grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code, details
            self._is_plain = False
        self._is_aborted = (
            True  # not the error itself: its frames hold the call, and only the collector would free them
        )
        raise grpc.aio.AbortError("Locally aborted.")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a rich status (`grpc_status.rpc_status.to_status`)."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())


def _code(code: grpc.StatusCode | int) -> grpc.StatusCode:
    return _CODES.get(code, grpc.StatusCode.UNKNOWN) if isinstance(code, int) else code
