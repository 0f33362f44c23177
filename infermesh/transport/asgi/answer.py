"""What a caller is sent: messages, and one status at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import grpc

from infermesh.transport.asgi.encodings import ACCEPTED, packed
from infermesh.transport.asgi.wire import WireError, frame, percent_encoded

__all__ = ["OK_TRAILERS", "START", "Answer", "Pairs", "Send", "refuse_http", "unheard"]

Event = MutableMapping[str, Any]
Send = Callable[[Event], Awaitable[None]]
Pairs = Sequence[tuple[bytes, bytes]]

MAX_INLINE_BYTES = 1 << 14  # to compress on the loop's thread: under a millisecond

CONTENT_TYPE = (b"content-type", b"application/grpc")
ACCEPT_ENCODING = (b"grpc-accept-encoding", ACCEPTED)

# Hosts read events and keep none, so that most answers are the same objects.
START: Event = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
_END: Event = {"type": "http.response.body", "body": b"", "more_body": False}
_OK = (b"grpc-status", b"0")
OK_TRAILERS: Event = {"type": "http.response.trailers", "headers": [_OK], "more_trailers": False}


class Answer:
    """The answer to one call. Nothing is sent before the first message or the status, unless metadata are.

    A status without a message before it travels in the head of the answer (gRPC: Trailers-Only).
    """

    # What is so for most calls stands in the class: nothing is done for it at each call.
    encoding: bytes | None = None
    is_gone = False  # the caller
    is_over = False  # a status is on its way, or nobody waits for one
    is_started = False

    def __init__(self, send: Send, send_bytes: int) -> None:
        self._send = send
        self._send_bytes = send_bytes

    async def send_head(self, metadata: Pairs, *, now: bool = False) -> None:
        """Start the answer; the host sends the head with the first part of the body, unless that is to be now."""
        self.is_started = True
        event = START
        if metadata or self.encoding is not None:
            ours = [CONTENT_TYPE] if self.encoding is None else [CONTENT_TYPE, (b"grpc-encoding", self.encoding)]
            event = {**START, "headers": [*ours, *metadata]}
        await self._send(event)
        if now:
            await self._send_part(b"")

    async def send_message(self, data: bytes, *, compress: bool = True) -> None:
        """A message that was `checked`. Returns when the host would take more; OSError when the caller has gone."""
        if self.encoding is None:
            framed = frame(data)
        else:
            framed = await self._packed(data, compress)
        await self._send_part(framed)

    async def send_status(self, code: int, text: str, metadata: Pairs) -> None:
        """The end of the call."""
        self.is_over = True
        headers = [_OK if code == 0 else (b"grpc-status", b"%d" % code), *metadata]
        if text:
            headers.insert(1, (b"grpc-message", percent_encoded(text)))
        send = self._send
        if self.is_started:
            await send(_END)
            await send({"type": "http.response.trailers", "headers": headers, "more_trailers": False})
            return
        if code == grpc.StatusCode.UNIMPLEMENTED.value[0]:
            headers.append(ACCEPT_ENCODING)  # it may be about the encoding
        await send({"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE, *headers]})
        await send(_END)

    def checked(self, data: bytes) -> bytes:
        """The message, unless it is over the limit: WireError."""
        if len(data) > self._send_bytes:
            text = f"SERVER: Sent message larger than max ({len(data)} vs. {self._send_bytes})"
            raise WireError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        return data

    async def _packed(self, data: bytes, compress: bool) -> bytes:
        if not compress or self.encoding is None:
            return frame(data)
        if len(data) <= MAX_INLINE_BYTES:
            return frame(packed(data, self.encoding), compressed=True)
        return frame(await asyncio.to_thread(packed, data, self.encoding), compressed=True)

    async def _send_part(self, part: bytes) -> None:
        sending = self._send({"type": "http.response.body", "body": part, "more_body": True})
        if not isinstance(sending, asyncio.Future):
            await sending
            return
        try:
            # A host's own future is not cancelled with the task that waits for it: some complain when they come to set it.
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            sending.add_done_callback(unheard)
            raise


def unheard(sending: asyncio.Future[None]) -> None:
    """Take a failure that nobody waits for any more."""
    if not sending.cancelled():
        sending.exception()


async def refuse_http(send: Send, status: int, text: str) -> None:
    """Answer what is no gRPC at all."""
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
