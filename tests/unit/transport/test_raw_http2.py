"""A backend that speaks HTTP/2 and answers calls as no server would: resets, ends, and what is no frame."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from e2e_wire import DATA, HEADERS, RST_STREAM, frame, packed

from infermesh.call import Call
from infermesh.config import BackendConfig
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, ForeignStatus, Internal, MeshError, ResourceExhausted, Unavailable
from infermesh.filters import Retry, RetryBudget
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.transport import RemoteService

REQUEST = pb.ModelInferRequest(model_name="m", id="7")
PREFACE_BYTES = 24
SETTINGS, PING, GOAWAY = 4, 6, 7
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 2, 7, 8, 11
HEAD = packed([(":status", "200"), ("content-type", "application/grpc")])


def trailers(code: int) -> bytes:
    return packed([("grpc-status", str(code))])


class RawBackend:
    """Answers the first stream of a connection, which asks for health, with UNIMPLEMENTED, and the others by `act(stream)`:
    the bytes to write, or None to reset the connection. Keeps the streams that it was sent, and those that were reset."""

    def __init__(self) -> None:
        self.act: Callable[[int], bytes | None] = self.answered
        self.asked: list[int] = []
        self.resets: list[int] = []
        self.connections = 0

    def answered(self, stream: int) -> bytes:
        message = pb.ModelInferResponse(model_name="m", id="7").SerializeToString()
        body = b"\x00" + struct.pack(">I", len(message)) + message
        return frame(HEADERS, 4, stream, HEAD) + frame(DATA, 0, stream, body) + frame(HEADERS, 5, stream, trailers(0))

    async def __aenter__(self) -> RawBackend:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        health = 0
        try:
            await reader.readexactly(PREFACE_BYTES)
            writer.write(frame(SETTINGS, 0, 0))
            while True:
                head = await reader.readexactly(9)
                content = await reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags, stream = struct.unpack(">BBI", head[3:])
                if kind in (SETTINGS, PING) and not flags & 1:
                    writer.write(frame(kind, 1, 0, content if kind == PING else b""))
                elif kind == HEADERS and not health:
                    health = stream
                    writer.write(frame(HEADERS, 5, stream, HEAD + trailers(12)))
                elif kind == RST_STREAM and stream != health:
                    self.resets.append(stream)
                elif kind == DATA and flags & 1 and stream != health:  # a request is whole
                    self.asked.append(stream)
                    answer = self.act(stream)
                    if answer is None:
                        linger = struct.pack("ii", 1, 0)  # what is closed now is reset
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        return
                    writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@pytest.fixture
async def raw() -> AsyncIterator[RawBackend]:
    async with RawBackend() as backend:
        yield backend


@pytest.fixture
async def remote(raw: RawBackend) -> AsyncIterator[RemoteService]:
    made = RemoteService(BackendConfig(target=raw.target), "backend")
    yield made
    await made.close()


async def ask(remote: RemoteService, seconds: float = 10.0) -> pb.ModelInferResponse:
    return await remote.infer(REQUEST, Call(deadline=Deadline.after(seconds)))


def reset(code: int) -> Callable[[int], bytes]:
    return lambda stream: frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def after_headers(code: int) -> Callable[[int], bytes]:
    return lambda stream: frame(HEADERS, 4, stream, HEAD) + reset(code)(stream)


def half_an_answer(code: int) -> Callable[[int], bytes]:
    half = b"\x00" + struct.pack(">I", 100) + b"half"
    return lambda stream: frame(HEADERS, 4, stream, HEAD) + frame(DATA, 0, stream, half) + reset(code)(stream)


def away(last: int) -> Callable[[int], bytes]:
    return lambda stream: frame(GOAWAY, 0, 0, struct.pack(">II", last, NO_ERROR))


FAULTS: dict[str, tuple[Callable[[int], bytes | None], type[MeshError] | tuple[type[MeshError], ...]]] = {
    "reset: no error": (reset(NO_ERROR), Internal),
    "reset: protocol error": (reset(PROTOCOL_ERROR), Internal),
    "reset: internal error": (reset(INTERNAL_ERROR), Internal),
    "reset: refused": (reset(REFUSED_STREAM), Unavailable),
    "reset: cancelled": (reset(CANCEL), Unavailable),
    "reset: calm": (reset(ENHANCE_YOUR_CALM), ResourceExhausted),
    "reset after headers": (after_headers(INTERNAL_ERROR), Internal),
    "refused after headers": (after_headers(REFUSED_STREAM), Unavailable),
    "reset in the answer": (half_an_answer(INTERNAL_ERROR), Internal),
    "cancelled in the answer": (half_an_answer(CANCEL), Unavailable),
    "away, not taken": (away(1), Unavailable),
    "connection reset": (lambda stream: None, Unavailable),
    "no frame": (lambda stream: b"HTTP/1.1 500 Internal Server Error\r\n\r\n" * 10, (ForeignStatus, Unavailable)),
    "trailers without a status": (lambda stream: frame(HEADERS, 5, stream, HEAD), ForeignStatus),
    "an answer and no end": (lambda stream: frame(HEADERS, 4, stream, HEAD), DeadlineExceeded),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_reset_is_an_error_of_its_call_and_the_next_is_served(
    raw: RawBackend, remote: RemoteService, fault: str
) -> None:
    """Whatever a backend does to a call, it ends with an error of its class that knows where, and never with a wrong answer."""
    assert (await ask(remote)).id == "7"
    raw.act, expected = FAULTS[fault]

    with pytest.raises(MeshError) as failed:
        await ask(remote, 0.5 if expected is DeadlineExceeded else 10.0)
    raw.act = raw.answered

    assert isinstance(failed.value, expected)  # gRPC has two words for what is no frame
    assert failed.value.endpoint == raw.target
    assert not failed.value.rejected  # who was sent a call may have begun it
    again = Retry(3, RetryBudget(0.2, 100), lambda outcome: None)  # the connection may be on its way out yet
    assert (await again(REQUEST, Call(deadline=Deadline.after(10)), remote.infer)).id == "7"


@pytest.mark.parametrize("fault", ["reset: refused", "reset: cancelled", "connection reset", "away, not taken"])
async def test_what_a_replica_resets_is_answered_by_the_other(raw: RawBackend, serve: Any, fault: str) -> None:
    """A call that one replica has reset is tried again, at the other, and its caller does not notice."""
    running = await serve()
    raw.act, _ = FAULTS[fault]
    remote = RemoteService(BackendConfig(target=[raw.target, running.target]), "backend")
    retry = Retry(3, RetryBudget(0.2, 100), lambda outcome: None)
    try:
        async with asyncio.timeout(20):
            while not (raw.asked and running.service.calls):
                answer = await retry(REQUEST, Call(deadline=Deadline.after(10)), remote.infer)
                assert answer.id == "7"
    finally:
        await remote.close()


async def test_who_is_cancelled_takes_the_call_back(raw: RawBackend, remote: RemoteService) -> None:
    """A caller who goes away, and one whose deadline passes, reset their streams: the backend can stop working for them."""
    raw.act = lambda stream: b""
    left = asyncio.ensure_future(ask(remote))
    async with asyncio.timeout(10):
        while not raw.asked:
            await asyncio.sleep(0.001)

    left.cancel()
    with pytest.raises(DeadlineExceeded):
        await ask(remote, 0.1)

    async with asyncio.timeout(10):
        while len(raw.resets) < 2:
            await asyncio.sleep(0.001)
    assert sorted(raw.resets) == raw.asked
    assert raw.connections == 1
