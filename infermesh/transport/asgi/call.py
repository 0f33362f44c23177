"""One call: what holds for it, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from infermesh.transport.asgi.answer import OK_TRAILERS, START, Answer, Pairs, Send, unheard
from infermesh.transport.asgi.encodings import check_encoding
from infermesh.transport.asgi.limits import Limits
from infermesh.transport.asgi.metadata import Metadata
from infermesh.transport.asgi.method import Method
from infermesh.transport.asgi.requests import Receive, Requests
from infermesh.transport.asgi.wire import PREFIX, WireError, timeout_s

__all__ = ["Call"]

UNEXPECTED = "internal error; the log has it"
MAX_UNREAD_BYTES = 1 << 18  # of an answer that is left to the host; it has room for four times as much

_log = logging.getLogger(__name__)


class Call(Answer):
    """A call ends once: by what its method returns or raises, by an abort, by its deadline or with its caller.

    What came first counts, also where the method swallows what it was ended with. The last two cancel the task that runs it.
    """

    deadline = math.inf
    has_expired = False
    born = look_at = 0  # the ticker's
    requests: Requests | None = None
    is_half_closed = False  # nothing more comes but the news that the caller has gone
    is_reading = False  # the one request of a call that has one
    is_cut = False  # from outside the method
    _is_plain = True  # nothing is to be told but the answer
    _final: tuple[grpc.StatusCode, str] | None = None
    _code = grpc.StatusCode.OK
    _details = ""
    _trailing: Metadata = ()
    _trailing_pairs: Pairs = ()
    _metadata: tuple[tuple[str, str | bytes], ...] | None = None
    _is_compressing_next = True
    _is_aborted: bool = False
    _callbacks: list[Callable[[Any], None]] | None = None
    _looking: asyncio.Future[Any] | None = None

    def __init__(
        self,
        limits: Limits,
        method: Method,
        scope: Mapping[str, Any],
        receive: Receive,
        send: Send,
        task: asyncio.Task[Any] | None = None,
    ) -> None:
        self._send = send  # Answer's two: a call less
        self._send_bytes = limits.send_bytes
        self.limits = limits
        self.method = method
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._task = task  # that runs the method

    def open(self) -> None:
        """Read what the caller wishes. Raises WireError for a call that can't be answered."""
        headers = self.headers
        if headers.get(b"te") != b"trailers":
            raise WireError(grpc.StatusCode.INTERNAL, "te: expected trailers; the status could not be sent")
        if (timeout := headers.get(b"grpc-timeout")) is not None:
            remaining = timeout_s(timeout)
            self.deadline = self.limits.clock() + remaining
            if remaining <= 0:
                raise WireError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        if (encoding := headers.get(b"grpc-encoding")) is not None:
            check_encoding(encoding)

    def leave(self) -> None:
        """The caller has gone."""
        if not self.is_over:
            self.is_gone = True
            self._end_now(grpc.StatusCode.CANCELLED, "the caller has gone")

    def expire(self) -> None:
        """The deadline has passed."""
        self._end_now(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def revoke(self) -> None:
        """The server goes, and waits no longer."""
        self._end_now(grpc.StatusCode.UNAVAILABLE, "this replica is leaving")

    def fail(self, error: BaseException) -> None:
        """Something of ours has failed beside the method."""
        if isinstance(error, WireError):
            self._end_now(error.code, error.text)
        else:
            self._tell(error)
            self._end_now(grpc.StatusCode.INTERNAL, UNEXPECTED)

    def look(self, age_s: float) -> None:
        """See whether the caller is still there; `receive()` is ours once the request has been read to its end."""
        if self.is_reading and age_s > self.limits.read_within_s:
            self._end_now(grpc.StatusCode.DEADLINE_EXCEEDED, f"no whole request in {self.limits.read_within_s:g} s")
        if self.is_half_closed and self._looking is None and not self.is_over:
            self._looking = asyncio.ensure_future(self._receive())
            self._looking.add_done_callback(self._looked)

    async def answer_only(self, message: Any) -> None:
        """The method has returned its one answer. Most go the short way: three events, of which two are always the same."""
        is_ok = self._is_plain or (self._final is None and self._code is grpc.StatusCode.OK)
        data = self.checked(self.method.serialise(message)) if is_ok else b""
        try:
            if self._is_plain and len(data) <= MAX_UNREAD_BYTES:
                body = {"type": "http.response.body", "body": PREFIX.pack(0, len(data)) + data, "more_body": False}
                self.is_over = self.is_started = True
                send = self._send
                await send(START)
                await send(body)
                if pairs := self._trailing_pairs:
                    await send({**OK_TRAILERS, "headers": [*OK_TRAILERS["headers"], *pairs]})
                else:
                    await send(OK_TRAILERS)
                return
            if is_ok:
                if not self.is_started:
                    await self.send_head([])
                await self.send_message(data, compress=self._is_compressing_next)
                if len(data) > MAX_UNREAD_BYTES:
                    # Until the caller has taken most of it: its place is not another's before.
                    await self._send_part(b"")
        except OSError:
            self.is_gone = True
        await self.end()

    async def end(self) -> None:
        """The method has returned."""
        code, text = self._final or (self._code, self._details)
        await self._send_final(code, text)

    async def end_by(self, error: BaseException) -> None:
        """The method, or reading the request, has raised; whatever it was, the caller gets a status."""
        if self._final is None:
            if isinstance(error, WireError):
                self._final = error.code, error.text
            elif isinstance(error, asyncio.CancelledError):
                self._final = grpc.StatusCode.CANCELLED, "the call was cancelled"
            else:
                self._tell(error)
                ok = self._code is grpc.StatusCode.OK
                self._final = grpc.StatusCode.UNKNOWN if ok else self._code, UNEXPECTED
        elif not isinstance(error, (asyncio.CancelledError, grpc.aio.AbortError, WireError)):
            self._tell(error)
        await self._send_final(*self._final)

    def close(self) -> None:
        """The status is sent, or nobody waits for one."""
        self.is_over = True
        if self.requests is not None:
            self.requests.close()
            self.requests = None  # the two hold each other
        if isinstance(self._looking, asyncio.Task):  # a host's own future is left to it
            self._looking.cancel()
        if self._callbacks is not None:
            for callback in self._callbacks:
                try:
                    callback(self)
                except BaseException as error:
                    self._tell(error)

    async def _left(self) -> None:
        """Ends whoever was sending to a caller who has gone, and the method with it."""
        self.leave()
        await asyncio.sleep(0)  # the task itself is ended here, a task of the method's below
        raise asyncio.CancelledError

    def _end_now(self, code: grpc.StatusCode, text: str) -> None:
        if self.is_cut or self.is_over:
            return  # a second cancellation would end what the method does to clean up
        self.is_cut = True
        self._is_plain = False
        self._final = self._final or (code, text)
        if self.is_reading:
            # The host's future is not cancelled (some complain when they come to set it): with the status the request ends.
            ending = asyncio.ensure_future(self._send_final(code, text))
            ending.add_done_callback(unheard)
        elif self._task is not None:
            self._task.cancel()

    async def _send_final(self, code: grpc.StatusCode, text: str) -> None:
        if self.is_gone or self.is_over:
            return
        try:
            await self.send_status(code.value[0], text, self._trailing_pairs)
        except OSError:
            self.is_gone = True

    def _looked(self, looking: asyncio.Future[Any]) -> None:
        self._looking = None
        if looking.cancelled():
            return
        if (error := looking.exception()) is not None:
            self.fail(error)
        elif looking.result()["type"] == "http.disconnect":
            self.leave()

    def _tell(self, error: BaseException) -> None:
        _log.error("internal error in %s: %s", self.method.path, error, exc_info=error)
