"""One connection: calls out, answers in."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import cast

import grpc

from infermesh.transport.http2.answer import NotTaken, failure, of_reset, status_of_headers
from infermesh.transport.http2.frames import (
    HEAD,
    Blocks,
    Errors,
    Flags,
    Kind,
    ProtocolError,
    Setting,
    frame,
    opening,
    settings_of,
    unpadded,
)
from infermesh.transport.http2.heads import Heads
from infermesh.transport.http2.stream import PREFIX, Stream

__all__ = ["Connection"]

STREAM_WINDOW = 4 << 20
CONNECTION_WINDOW = 16 << 20
MAX_FRAME = 1 << 14  # that we take: what every connection begins with
MAX_BLOCK = 1 << 16  # of headers in several frames
MAX_ID = 2**31 - 1
PING_S = 5.0  # for the answer to a ping
LATE_S = 0.001  # a timer of the loop's may come that much early


class Connection(asyncio.Protocol):
    """Unary calls to one server in plain text, whose requests fit into what the server lets us send at once.

    `takes` says whether a call can go over it now; who gets no for an answer has another way. `unary` gives bytes for bytes.
    What is sent in one turn of the loop is one write. `ended` is called when it takes no more calls for good.
    """

    def __init__(
        self, authority: str, *, max_receive: int, keepalive_s: float, ended: Callable[[Connection], None]
    ) -> None:
        self.calls: dict[int, Stream] = {}
        self._loop = asyncio.get_running_loop()
        self._max_receive = max_receive
        self._keepalive_s = keepalive_s
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._is_open = False  # the server has told its settings, and does not go
        self._is_paused = False  # it does not read as fast as we write
        self._next_id = 1
        self._heads = Heads(authority)
        self._out: list[bytes] = []
        self._unsent: list[int] = []  # the calls in it
        self._rest = b""  # the beginning of a frame
        self._block: tuple[int, int, bytes] | None = None  # headers that go on: stream, flags, so far
        self._blocks = Blocks()
        self._most_calls = 100  # until the server says another number
        self._window = self._stream_window = 0xFFFF
        self._max_frame = MAX_FRAME
        self._unread = 0  # bytes that the server has not been told are read
        self._expires_at = math.inf
        self._expiring: asyncio.TimerHandle | None = None
        self._beating: asyncio.TimerHandle | None = None
        self._is_quiet = False  # nothing has come since the last look

    def takes(self, size: int) -> bool:
        """Whether a call with a message of that size can be sent now, as a whole."""
        size += PREFIX.size
        return (
            self._is_open
            and not self._is_paused
            and size <= self._window
            and size <= self._stream_window
            and len(self.calls) < self._most_calls
        )

    async def unary(
        self, path: str, data: bytes, timeout_s: float | None, metadata: Sequence[tuple[str, str]]
    ) -> bytes:
        """The answer's bytes. To be called only when it `takes` so much.

        Raises AioRpcError for another status than OK, NotTaken when no server has seen the call. Cancelling ends it there too.
        """
        number = self._next_id
        call = self.calls[number] = Stream(self._loop.create_future())
        self._next_id += 2
        self._send(number, self._heads.of(path, timeout_s, metadata), data)
        if timeout_s is not None:
            call.deadline = deadline = self._loop.time() + timeout_s
            if deadline < self._expires_at:
                self._arm(deadline)
        if self._next_id > MAX_ID:
            self._go()
        try:
            return await call.future
        finally:
            if self.calls.pop(number, None) is not None:  # cancelled, or past its deadline
                self._write(frame(Kind.RST_STREAM, 0, number, Errors.CANCEL.to_bytes(4, "big")))
            if not self.calls and not self._is_open:
                self.close()

    def leave(self) -> None:
        """Take no new calls; it is closed when those that are there have ended."""
        self._go()
        if not self.calls:
            self.close()

    def close(self, error: Exception | None = None) -> None:
        """End the calls, with this error, and the connection."""
        self._go()
        for timer in (self._expiring, self._beating):
            if timer is not None:
                timer.cancel()
        self._end_all(error or failure(grpc.StatusCode.UNAVAILABLE, "the connection was closed"))
        if self._transport is not None:
            self._transport.close()

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(opening(STREAM_WINDOW, CONNECTION_WINDOW))
        self._beating = self._loop.call_later(self._keepalive_s, self._beat)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.close(failure(grpc.StatusCode.UNAVAILABLE, f"the connection was lost: {exc or 'closed by the server'}"))

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False

    def data_received(self, data: bytes) -> None:
        self._is_quiet = False
        try:
            self._read(self._rest + data if self._rest else data)
        except ProtocolError as error:
            self._write(frame(Kind.GOAWAY, 0, 0, bytes(4) + error.code.to_bytes(4, "big")))
            self._flush()
            self.close(failure(grpc.StatusCode.UNAVAILABLE, f"the server does not keep to HTTP/2: {error}"))

    # Out.

    def _send(self, number: int, block: bytes, data: bytes) -> None:
        most, size = self._max_frame, len(data) + PREFIX.size
        prefix = PREFIX.pack(0, len(data))
        self._window -= size
        self._unsent.append(number)
        if len(block) <= most and size <= most:
            head = HEAD.pack(len(block) >> 8, len(block) & 0xFF, Kind.HEADERS, Flags.END_HEADERS, number)
            body = HEAD.pack(size >> 8, size & 0xFF, Kind.DATA, Flags.END_STREAM, number)
            self._write(b"".join((head, block, body, prefix, data)))
            return
        for at in range(0, len(block), most):
            kind = Kind.CONTINUATION if at else Kind.HEADERS
            self._write(frame(kind, Flags.END_HEADERS if at + most >= len(block) else 0, number, block[at : at + most]))
        body = prefix + data
        for at in range(0, size, most):
            self._write(frame(Kind.DATA, Flags.END_STREAM if at + most >= size else 0, number, body[at : at + most]))

    def _write(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        self._unsent.clear()
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # In.

    def _read(self, data: bytes) -> None:
        at, end, unpack = 0, len(data), HEAD.unpack_from
        while end - at >= HEAD.size:
            high, low, kind, flags, number = unpack(data, at)
            size = high << 8 | low
            if size > MAX_FRAME:
                raise ProtocolError(f"a frame of {size} bytes", Errors.FRAME_SIZE)
            begin, following = at + HEAD.size, at + HEAD.size + size
            if following > end:
                break
            self._take(kind, flags, number & MAX_ID, data[begin:following])
            at = following
        self._rest = data[at:]

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != Kind.CONTINUATION:
            raise ProtocolError("headers that are broken off")
        if kind == Kind.DATA:
            self._take_data(flags, number, payload)
        elif kind == Kind.HEADERS:
            self._begin_headers(flags, number, unpadded(flags, payload))
        elif kind == Kind.WINDOW_UPDATE:
            if len(payload) != 4:
                raise ProtocolError("WINDOW_UPDATE of a wrong length", Errors.FRAME_SIZE)
            if not number:  # calls are sent whole: what they may send besides is of no interest
                self._window += int.from_bytes(payload, "big") & MAX_ID
                if self._window > MAX_ID:
                    raise ProtocolError("a window that is too large", Errors.FLOW_CONTROL)
        elif kind == Kind.PING:
            if len(payload) != 8 or number:
                raise ProtocolError("a PING of a wrong form", Errors.FRAME_SIZE)
            if not flags & Flags.ACK:
                self._write(frame(Kind.PING, Flags.ACK, 0, payload))
        elif kind == Kind.SETTINGS:
            if number:
                raise ProtocolError("SETTINGS of a stream")
            if not flags & Flags.ACK:
                self._take_settings(payload)
        elif kind == Kind.RST_STREAM:
            if len(payload) != 4:
                raise ProtocolError("RST_STREAM of a wrong length", Errors.FRAME_SIZE)
            code = int.from_bytes(payload, "big")
            self._end(number, NotTaken() if code == Errors.REFUSED_STREAM else of_reset(code))
        elif kind == Kind.GOAWAY:
            self._take_goaway(payload)
        elif kind == Kind.CONTINUATION:
            self._continue_headers(flags, number, payload)
        elif kind == Kind.PUSH_PROMISE:
            raise ProtocolError("PUSH_PROMISE, which was not allowed")

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        self._unread += len(payload)  # padding too
        if self._unread >= CONNECTION_WINDOW // 2:
            self._write(frame(Kind.WINDOW_UPDATE, 0, 0, self._unread.to_bytes(4, "big")))
            self._unread = 0
        call = self.calls.get(number)
        if call is None:
            self._check_known(number)
            return
        if wrong := call.take(unpadded(flags & Flags.PADDED, payload), self._max_receive):
            self._refuse(number, wrong)
            return
        if flags & Flags.END_STREAM:
            self._end(number, failure(grpc.StatusCode.INTERNAL, "the answer ended without a status"))
            return
        call.unread += len(payload)
        if call.unread >= STREAM_WINDOW // 2:
            self._write(frame(Kind.WINDOW_UPDATE, 0, number, call.unread.to_bytes(4, "big")))
            call.unread = 0

    def _begin_headers(self, flags: int, number: int, block: bytes) -> None:
        if flags & Flags.END_HEADERS:
            self._take_headers(flags, number, block)
        else:
            self._block = number, flags, block

    def _continue_headers(self, flags: int, number: int, more: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise ProtocolError("CONTINUATION of nothing")
        _, begun, block = self._block
        block += more
        if len(block) > MAX_BLOCK:
            raise ProtocolError(f"more than {MAX_BLOCK} bytes of headers", Errors.ENHANCE_YOUR_CALM)
        if flags & Flags.END_HEADERS:
            self._block = None
            self._take_headers(begun, number, block)
        else:
            self._block = number, begun, block

    def _take_headers(self, flags: int, number: int, block: bytes) -> None:
        headers = self._blocks.decoded(block)  # also of calls that are over
        call = self.calls.get(number)
        if call is None:
            self._check_known(number)
        elif flags & Flags.END_STREAM:
            self._end_by_status(number, call, headers)
        elif not call.http_status:
            status = headers.get(b":status", b"")
            if not status.startswith(b"1"):  # those come before the answer
                call.http_status = status or b"none"
        else:
            self._refuse(number, failure(grpc.StatusCode.INTERNAL, "headers in the midst of an answer"))

    def _end_by_status(self, number: int, call: Stream, headers: dict[bytes, bytes]) -> None:
        http_status = call.http_status or headers.get(b":status", b"")
        if headers.get(b"grpc-status") == b"0" and http_status == b"200":
            self._end(number, call.whole())
        else:
            self._end(number, status_of_headers(headers, http_status))

    def _take_settings(self, payload: bytes) -> None:
        for name, value in settings_of(payload):
            if name == Setting.MAX_CONCURRENT_STREAMS:
                self._most_calls = value
            elif name == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_ID:
                    raise ProtocolError("a window that is too large", Errors.FLOW_CONTROL)
                self._stream_window = value
            elif name == Setting.MAX_FRAME_SIZE:
                if not MAX_FRAME <= value < 1 << 24:
                    raise ProtocolError("a size of frames that there is not")
                self._max_frame = min(value, 0xFFFF)  # larger ones gain nothing
        self._write(frame(Kind.SETTINGS, Flags.ACK, 0))
        self._is_open = self._next_id <= MAX_ID and not self._has_ended

    def _take_goaway(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise ProtocolError("a GOAWAY that is cut off", Errors.FRAME_SIZE)
        last = int.from_bytes(payload[:4], "big") & MAX_ID
        self._go()
        for number in [each for each in self.calls if each > last]:
            self._end(number, NotTaken())
        if not self.calls:
            self.close()

    def _check_known(self, number: int) -> None:
        if not number % 2 or number >= self._next_id:
            raise ProtocolError(f"an answer to the stream {number}, which there was not")

    # The ends of calls.

    _has_ended = False

    def _go(self) -> None:
        self._is_open = False
        if not self._has_ended:
            self._has_ended = True
            self._ended(self)

    def _end(self, number: int, outcome: bytes | Exception) -> None:
        call = self.calls.pop(number, None)
        if call is not None and not call.future.done():
            if isinstance(outcome, bytes):
                call.future.set_result(outcome)
            else:
                call.future.set_exception(outcome)

    def _refuse(self, number: int, error: Exception) -> None:
        """End a call whose answer is wrong, there too."""
        self._write(frame(Kind.RST_STREAM, 0, number, Errors.CANCEL.to_bytes(4, "big")))
        self._end(number, error)

    def _end_all(self, error: Exception) -> None:
        unsent = set(self._unsent)
        for number in list(self.calls):
            self._end(number, NotTaken() if number in unsent else error)

    # Time.

    def _arm(self, deadline: float) -> None:
        """One timer for all calls: nearly all are over before it comes."""
        if self._expiring is not None:
            self._expiring.cancel()
        self._expires_at = deadline
        self._expiring = self._loop.call_at(deadline + LATE_S, self._expire)

    def _expire(self) -> None:
        now, self._expires_at = self._loop.time(), math.inf
        for call in self.calls.values():
            if call.deadline <= now and not call.future.done():  # who waits for it takes it off, and tells the server
                call.future.set_exception(failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        following = min((each.deadline for each in self.calls.values() if each.deadline > now), default=math.inf)
        if following < math.inf:
            self._arm(following)

    def _beat(self) -> None:
        """Ask for a sign of life where calls wait and nothing has come."""
        if self._is_quiet and self.calls:
            self._write(frame(Kind.PING, 0, 0, bytes(8)))
            self._beating = self._loop.call_later(PING_S, self._expect_life)
        else:
            self._is_quiet = True
            self._beating = self._loop.call_later(self._keepalive_s, self._beat)

    def _expect_life(self) -> None:
        if self._is_quiet:
            self.close(failure(grpc.StatusCode.UNAVAILABLE, "the server gives no sign of life"))
        else:
            self._beating = self._loop.call_later(self._keepalive_s, self._beat)
