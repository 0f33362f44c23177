"""One connection, byte by byte: what it writes, and what it makes of whatever comes."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import grpc
import pytest
from e2e_wire import frame, packed

from infermesh.transport.http2.answer import NotTaken
from infermesh.transport.http2.connection import STREAM_WINDOW, Connection

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
HEAD = packed([(":status", "200"), ("content-type", "application/grpc")])
OK = packed([("grpc-status", "0")])
NOT_FOUND = [("grpc-status", "5"), ("grpc-message", "no %C3%BC")]
READY = frame(SETTINGS, 0, 0)


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.is_closed = True

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """Type, flags, stream and content of what was written since the last look."""
        data, self.written = self.written.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), b""
        found = []
        while data:
            size = int.from_bytes(data[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", data[3:9])
            found.append((kind, flags, stream, data[9 : 9 + size]))
            data = data[9 + size :]
        return found


@pytest.fixture
async def opened() -> Any:
    """A connection whose server has told its settings, its wire, and what was told of its end."""
    ended: list[Connection] = []
    connection = Connection("backend", max_receive=1000, keepalive_s=3600, ended=ended.append)
    wire = Wire()
    connection.connection_made(wire)
    connection.data_received(READY)
    await asyncio.sleep(0)  # the loop's turn ends, and with it what is one write
    wire.frames()
    yield connection, wire, ended
    connection.close()


def message(data: bytes) -> bytes:
    return b"\x00" + struct.pack(">I", len(data)) + data


def answer(stream: int, data: bytes) -> bytes:
    return (
        frame(HEADERS, 4, stream, HEAD)
        + frame(DATA, 0, stream, message(data))
        + frame(HEADERS, 5, stream, OK)
    )  # fmt: skip


async def call(connection: Connection, data: bytes = b"ask", timeout_s: float | None = 60.0) -> asyncio.Future[bytes]:
    """A call that has been sent."""
    made = asyncio.ensure_future(connection.unary("/a.B/C", data, timeout_s, []))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return made


async def failed(made: asyncio.Future[bytes]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await made
    return raised.value


async def test_nothing_is_sent_before_the_server_has_told_its_settings() -> None:
    """Until then nobody knows what it takes."""
    connection = Connection("backend", max_receive=1000, keepalive_s=3600, ended=lambda each: None)
    connection.connection_made(Wire())

    before = connection.takes(3)
    connection.data_received(READY)

    assert not before
    assert connection.takes(3)
    connection.close()


async def test_calls_of_one_turn_are_one_write_and_answers_find_their_calls(opened: Any) -> None:
    """In whatever order and pieces the answers come."""
    connection, wire, _ = opened
    first, second = await call(connection, b"1"), await call(connection, b"2")
    sent = wire.frames()
    data = answer(3, b"two") + answer(1, b"one")

    for at in range(len(data)):
        connection.data_received(data[at : at + 1])

    assert [(kind, stream) for kind, _, stream, _ in sent] == [(HEADERS, 1), (DATA, 1), (HEADERS, 3), (DATA, 3)]
    assert sent[1][3] == message(b"1")
    assert (await first, await second) == (b"one", b"two")
    assert not connection.calls


@pytest.mark.parametrize(
    ("settings", "size", "fits"),
    [
        ({4: 100}, 95, True),
        ({4: 100}, 96, False),  # with the five bytes before a message
        ({3: 0}, 1, False),
        ({}, 65_530, True),
        ({4: 1 << 20}, 65_531, False),  # the connection's window is not that large
    ],
)
async def test_what_the_server_would_not_take_at_once_is_not_begun(
    opened: Any, settings: dict[int, int], size: int, fits: bool
) -> None:
    """Windows and the number of calls are the server's to say."""
    connection, _, _ = opened
    connection.data_received(frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *each) for each in settings.items())))

    assert connection.takes(size) is fits


async def test_a_window_that_is_used_up_opens_again(opened: Any) -> None:
    """By as much as the server says."""
    connection, wire, _ = opened
    made = await call(connection, b"x" * 65_000)
    full = connection.takes(1000)

    connection.data_received(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 65_005)) + answer(1, b""))

    assert not full
    assert connection.takes(1000)
    sent = [content for kind, _, _, content in wire.frames() if kind == DATA]
    assert b"".join(sent) == message(b"x" * 65_000)
    assert max(map(len, sent)) <= 16_384
    assert await made == b""


async def test_what_was_read_is_told_so_that_a_long_answer_does_not_stop() -> None:
    """The stream's window and the connection's are opened again."""
    connection = Connection("backend", max_receive=1 << 30, keepalive_s=3600, ended=lambda each: None)
    connection.connection_made(wire := Wire())
    connection.data_received(READY)
    made = await call(connection)
    wire.frames()
    whole = message(bytes(STREAM_WINDOW * 3))
    connection.data_received(frame(HEADERS, 4, 1, HEAD))

    for at in range(0, len(whole), 16_384):
        connection.data_received(frame(DATA, 0, 1, whole[at : at + 16_384]))
    connection.data_received(frame(HEADERS, 5, 1, OK))
    await asyncio.sleep(0)

    assert len(await made) == STREAM_WINDOW * 3
    told = {0: 0, 1: 0}
    for kind, _, stream, content in wire.frames():
        assert kind == WINDOW_UPDATE
        told[stream] += int.from_bytes(content, "big")
    assert told[1] > STREAM_WINDOW * 2  # else the server would have had to stop
    assert told[0] > 0
    connection.close()


@pytest.mark.parametrize(
    ("came", "code", "text"),
    [
        (frame(HEADERS, 5, 1, packed([(":status", "200"), *NOT_FOUND])), "NOT_FOUND", "no ü"),
        (frame(HEADERS, 5, 1, packed([(":status", "503")])), "UNAVAILABLE", "HTTP status 503"),
        (frame(HEADERS, 4, 1, HEAD) + frame(HEADERS, 5, 1, OK), "INTERNAL", "not whole"),
        (frame(HEADERS, 4, 1, HEAD) + frame(DATA, 1, 1, message(b"a")), "INTERNAL", "without a status"),
        (frame(HEADERS, 4, 1, HEAD) + frame(DATA, 0, 1, message(b"a") * 2), "INTERNAL", "more than one"),
        (frame(HEADERS, 4, 1, HEAD) + frame(DATA, 0, 1, b"\x01" + message(b"a")[1:]), "INTERNAL", "compressed"),
        (frame(HEADERS, 4, 1, HEAD) + frame(DATA, 0, 1, message(bytes(1001))), "RESOURCE_EXHAUSTED", "1001 vs. 1000"),
        (frame(DATA, 0, 1, message(b"a")), "INTERNAL", "without headers"),
        (frame(HEADERS, 4, 1, HEAD) * 2, "INTERNAL", "in the midst"),
        (frame(HEADERS, 5, 1, packed([(":status", "200"), ("grpc-status", "999")])), "UNKNOWN", ""),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_is_an_error_of_its_call_alone(
    opened: Any, came: bytes, code: str, text: str
) -> None:
    """The connection goes on."""
    connection, _, ended = opened
    made = await call(connection)

    connection.data_received(came)
    error = await failed(made)

    assert error.code().name == code
    assert text in error.details()
    again = await call(connection)
    connection.data_received(answer(3, b"well"))
    assert await again == b"well"
    assert not ended


async def test_trailing_metadata_come_with_the_failure(opened: Any) -> None:
    """Binary ones as bytes; what is no base64 does not hide the rest."""
    connection, _, _ = opened
    made = await call(connection)
    pairs = [("grpc-status", "8"), ("x-infermesh-hop", "predictor"), ("a-bin", "AAE"), ("b-bin", "x")]
    head = packed([(":status", "200"), *pairs])

    connection.data_received(frame(HEADERS, 1, 1, head[:20]) + frame(CONTINUATION, 4, 1, head[20:]))
    error = await failed(made)

    assert tuple(error.trailing_metadata()) == (("x-infermesh-hop", "predictor"), ("a-bin", b"\x00\x01"))


@pytest.mark.parametrize(
    "came",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(SETTINGS, 0, 0, b"12345"),
        frame(SETTINGS, 0, 1),
        frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)),
        frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 1)),
        frame(PING, 0, 0, b"1"),
        frame(RST_STREAM, 0, 1, b"1"),
        frame(GOAWAY, 0, 0, b"1"),
        frame(WINDOW_UPDATE, 0, 0, b"1"),
        frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)),
        frame(PUSH, 4, 1, bytes(4)),
        frame(CONTINUATION, 4, 1),
        frame(HEADERS, 0, 1, HEAD) + frame(PING, 0, 0, bytes(8)),
        frame(HEADERS, 0, 1, HEAD) + frame(CONTINUATION, 0, 1, bytes(16_384)) * 5,
        frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        frame(HEADERS, 4, 99, HEAD),
        frame(DATA, 0, 2, b""),
        frame(DATA, 8, 1, b"\x09"),
        frame(DATA, 0, 1, bytes(16_385)),
    ],
)
async def test_a_server_that_does_not_keep_to_the_protocol_is_left(opened: Any, came: bytes) -> None:
    """Its calls end as UNAVAILABLE, and it is told why."""
    connection, wire, ended = opened
    made = await call(connection)
    wire.frames()

    connection.data_received(came)
    error = await failed(made)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert wire.is_closed
    assert ended == [connection]
    assert wire.frames()[-1][0] == GOAWAY
    assert not connection.takes(1)


async def test_a_server_that_goes_answers_what_it_took_and_no_more(opened: Any) -> None:
    """Calls past the last one that it names were not begun, and may be made elsewhere."""
    connection, wire, ended = opened
    taken, left = await call(connection), await call(connection)

    connection.data_received(frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0)))
    with pytest.raises(NotTaken):
        await left
    open_then = not wire.is_closed
    connection.data_received(answer(1, b"done"))

    assert await taken == b"done"
    assert ended == [connection]
    assert open_then
    assert wire.is_closed


async def test_a_call_that_the_server_refuses_unseen_was_not_taken(opened: Any) -> None:
    """REFUSED_STREAM says that nothing was done for it (RFC 9113, 8.7)."""
    connection, _, _ = opened
    made = await call(connection)

    connection.data_received(frame(RST_STREAM, 0, 1, struct.pack(">I", 7)))

    with pytest.raises(NotTaken):
        await made


async def test_a_connection_that_breaks_ends_its_calls(opened: Any) -> None:
    """What was written may have been begun; what was not is made anew."""
    connection, _, ended = opened
    sent = await call(connection)
    unsent = asyncio.ensure_future(connection.unary("/a.B/C", b"", None, []))
    asyncio.get_running_loop().call_soon(connection.connection_lost, None)  # in the turn in which it is made

    assert (await failed(sent)).code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(NotTaken):
        await unsent
    assert ended == [connection]


@pytest.mark.parametrize("by", ["caller", "deadline"])
async def test_the_server_is_told_of_a_call_that_nobody_waits_for(opened: Any, by: str) -> None:
    """By a reset; what it sends all the same is left aside."""
    connection, wire, _ = opened
    made = await call(connection, timeout_s=60.0 if by == "caller" else 0.0)
    if by == "caller":
        made.cancel()
        with pytest.raises(asyncio.CancelledError):
            await made
    else:
        assert (await failed(made)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.sleep(0)

    connection.data_received(answer(1, b"late"))

    assert wire.frames()[-1] == (RST_STREAM, 0, 1, struct.pack(">I", 8))
    again = await call(connection)
    connection.data_received(answer(3, b"well"))
    assert await again == b"well"


async def test_pings_are_answered(opened: Any) -> None:
    """With what they carry."""
    connection, wire, _ = opened

    connection.data_received(frame(PING, 0, 0, b"abcdefgh") + frame(PING, 1, 0, b"12345678"))
    await asyncio.sleep(0)

    assert wire.frames() == [(PING, 1, 0, b"abcdefgh")]


async def test_while_the_server_does_not_read_nothing_is_begun(opened: Any) -> None:
    """What is written would wait in memory."""
    connection, _, _ = opened

    connection.pause_writing()
    paused = connection.takes(1)
    connection.resume_writing()

    assert not paused
    assert connection.takes(1)


async def test_a_server_that_vanished_is_found_by_a_ping(opened: Any) -> None:
    """A call that waits in silence has its server asked for a sign of life; without one the connection is given up."""
    connection, wire, ended = opened
    made = await call(connection)
    wire.frames()
    connection._beat()
    connection._beat()
    await asyncio.sleep(0)
    asked = wire.frames()

    connection._expect_life()

    assert asked == [(PING, 0, 0, bytes(8))]
    assert "no sign of life" in str((await failed(made)).details())
    assert ended == [connection]


@pytest.mark.parametrize("sign", [frame(PING, 1, 0, bytes(8)), frame(HEADERS, 4, 1, HEAD)])
async def test_any_sign_of_life_will_do(opened: Any, sign: bytes) -> None:
    """The call goes on."""
    connection, _, ended = opened
    made = await call(connection)
    connection._beat()
    connection._beat()

    connection.data_received(sign)
    connection._expect_life()
    connection.data_received(answer(1, b"late") if sign[3] == PING else frame(DATA, 0, 1, message(b"late")))
    connection.data_received(b"" if sign[3] == PING else frame(HEADERS, 5, 1, OK))

    assert await made == b"late"
    assert not ended
