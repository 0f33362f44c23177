"""What a caller sends: one message, or a stream of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import grpc

from infermesh.transport.asgi.encodings import unpacked
from infermesh.transport.asgi.wire import PREFIX, PREFIX_BYTES, Frames, WireError

if TYPE_CHECKING:
    from infermesh.transport.asgi.call import Call

__all__ = ["Event", "Receive", "Requests", "read_only"]

SMALL_PACKED_BYTES = 2048  # unpacks to 2 MB at worst, in a few milliseconds; more is not for the loop's thread

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]


async def read_only(receive: Receive, call: Call) -> bytes | None:
    """The bytes of the one message of the call; None when the caller has gone. Raises WireError.

    The end of the body is waited for: two messages must not be answered as one.
    """
    event = await receive()
    part: bytes = event.get("body", b"")
    if event["type"] == "http.request" and not event.get("more_body") and len(part) >= PREFIX_BYTES:
        packed, size = PREFIX.unpack_from(part)
        if not packed and len(part) == PREFIX_BYTES + size <= PREFIX_BYTES + call.limits.receive_bytes:
            return part[PREFIX_BYTES:]
    frames = Frames(call.limits.receive_bytes)
    found: tuple[bool, bytes] | None = None
    unfinished, held = call.limits.unfinished, 0
    try:
        while True:
            if event["type"] != "http.request":
                return None
            part = event.get("body", b"")
            held += len(part)
            unfinished.take(len(part))
            frames.feed(part)
            if found is None:
                found = frames.take()
            if found is not None and not frames.is_between:
                raise _cardinality("more")
            if not event.get("more_body"):
                break
            event = await receive()
    finally:
        unfinished.let_go(held)
    if found is None:
        raise _cardinality("none") if frames.is_between else _cut_off()
    return await _plain(*found, call)


async def _plain(packed: bool, data: bytes, call: Call) -> bytes:
    if not packed:
        return data
    encoding, limit = call.headers.get(b"grpc-encoding", b"identity"), call.limits.receive_bytes
    if len(data) <= SMALL_PACKED_BYTES:
        return unpacked(data, encoding, limit)
    return await asyncio.to_thread(unpacked, data, encoding, limit)


def _cardinality(sent: str) -> WireError:
    return WireError(grpc.StatusCode.UNIMPLEMENTED, f"this method takes exactly one request; {sent} came")


def _cut_off() -> WireError:
    return WireError(grpc.StatusCode.INTERNAL, "the request ends within a message")


class Requests:
    """A stream of requests: an async iterator, and `read`.

    A task of its own receives ahead by one part, so that a caller who goes is seen while nobody reads; it receives no more than
    that, so that HTTP/2's window stops a caller whose requests are not read.
    """

    def __init__(self, receive: Receive, call: Call, parse: Callable[[bytes], Any]) -> None:
        self._receive = receive
        self._call = call
        self._parse = parse
        self._frames = Frames(call.limits.receive_bytes)
        self._held = 0  # bytes that no message was made of
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(1)  # None: the end
        self._ended = False
        self._receiving = False
        self._pump: asyncio.Task[None] | None = asyncio.ensure_future(self._pumped())
        self._pump.add_done_callback(self._has_pumped)

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        """The next request; `grpc.aio.EOF` when there are no more. Raises WireError."""
        while (found := self._frames.take()) is None:
            part = None if self._ended else await self._parts.get()
            if part is None:
                self._ended = True
                if not self._frames.is_between:
                    raise _cut_off()
                return grpc.aio.EOF
            self._frames.feed(part)
        self._let_go(PREFIX_BYTES + len(found[1]))
        return self._parse(await _plain(*found, self._call))

    def close(self) -> None:
        """The call is over. A `receive()` under way is left to its host, which ends it with the call: some complain of an answer
        that nobody waits for."""
        self._ended = True
        self._let_go(self._held)
        if self._pump is not None and not self._receiving:
            self._pump.cancel()
        if self._parts.empty():
            self._parts.put_nowait(None)  # whoever still reads has waited for nothing

    def _let_go(self, count: int) -> None:
        count = min(count, self._held)  # nothing is left after the end
        self._held -= count
        self._call.limits.unfinished.let_go(count)

    def _has_pumped(self, _: object) -> None:
        self._pump = None  # its frames hold this: only the garbage collector would free the two

    async def _pumped(self) -> None:
        try:
            while not self._ended:
                self._receiving = True
                event = await self._receive()
                self._receiving = False
                if event["type"] != "http.request":
                    self._call.leave()
                if self._ended or self._call.is_gone:
                    return
                if body := event.get("body", b""):
                    self._held += len(body)
                    self._call.limits.unfinished.take(len(body))
                    await self._parts.put(body)
                if not event.get("more_body"):
                    self._call.is_half_closed = True
                    await self._parts.put(None)
                    return
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # SystemExit out of a task would end the loop's thread
            self._call.fail(error)
