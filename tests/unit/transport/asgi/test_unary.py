"""Calls of one request and one answer."""

from __future__ import annotations

import gzip
import re
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from infermesh.transport.asgi import Application
from infermesh.transport.asgi.wire import Frames, frame
from infermesh.transport.health import Health
from tests.unit.transport.asgi.driver import Exchange, headers
from tests.unit.transport.asgi.parts import with_methods

NOT_FOUND = grpc.StatusCode.NOT_FOUND
UNIMPLEMENTED, INTERNAL, EXHAUSTED = 12, 13, 8


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def test_an_answer_is_a_head_a_message_and_a_status() -> None:
    """Three events and no more, since each of them costs."""
    exchange = await Exchange().message(b"hello").run(with_methods(Unary=echo))

    assert [event["type"].rpartition(".")[2] for event in exchange.sent] == ["start", "body", "trailers"]
    assert exchange.messages == [b"hello"]
    assert exchange.head == {b"content-type": b"application/grpc"}
    assert exchange.tail == {b"grpc-status": b"0"}


async def test_a_request_may_come_in_parts() -> None:
    """Its end may be a part of its own, without a byte."""
    body = frame(b"hello" * 1000)
    exchange = Exchange()
    for at in range(0, len(body), 7):
        exchange.feed(body[at : at + 7])

    await exchange.feed(b"", more=False).run(with_methods(Unary=echo))

    assert exchange.messages == [b"hello" * 1000]


async def test_the_servicers_of_generated_code_mount_unchanged() -> None:
    """Its messages are protobuf's, and its methods are found by their full names."""
    application, health = Application(), Health()
    health.set("", serving=True)
    health_pb2_grpc.add_HealthServicer_to_server(health, application)

    exchange = await Exchange("/grpc.health.v1.Health/Check").message().run(application)
    unknown = health_pb2.HealthCheckRequest(service="x").SerializeToString()
    missing = await Exchange("/grpc.health.v1.Health/Check").message(unknown).run(application)

    assert health_pb2.HealthCheckResponse.FromString(exchange.messages[0]).status == 1
    assert (missing.code, missing.messages) == (NOT_FOUND.value[0], [])


async def test_a_generic_handler_is_asked_once_for_a_method() -> None:
    """What it says is kept; what it does not know is unimplemented, with the encodings that we have."""
    asked: list[str] = []

    class Generic(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
        def service(self, details: Any) -> Any:
            asked.append(details.method)
            return grpc.unary_unary_rpc_method_handler(echo) if details.method == "/a.B/C" else None

    application = Application()
    application.add_generic_rpc_handlers((Generic(),))

    for _ in range(3):
        assert (await Exchange("/a.B/C").message(b"x").run(application)).messages == [b"x"]
    unknown = await Exchange("/a.B/D").message().run(application)

    assert asked == ["/a.B/C", "/a.B/D"]
    assert (unknown.code, unknown.text) == (UNIMPLEMENTED, "Method not found!")
    assert unknown.tail[b"grpc-accept-encoding"] == b"identity, deflate, gzip"


async def test_a_generic_handler_that_fails_is_a_method_not_found() -> None:
    """The caller gets a status, not an open end."""

    class Broken(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
        def service(self, details: Any) -> Any:
            raise SystemExit(1)

    application = Application()
    application.add_generic_rpc_handlers((Broken(),))

    assert (await Exchange("/a.B/C").message().run(application)).code == UNIMPLEMENTED


async def test_an_abort_is_the_status_with_its_metadata() -> None:
    """In the head of the answer, since nothing was sent before; texts are escaped, -bin values are base64."""

    async def aborts(request: bytes, context: Any) -> bytes:
        await context.abort(NOT_FOUND, "grün", (("x-a", "1"), ("x-bin", b"\0\1")))
        return b"never"

    exchange = await Exchange().message().run(with_methods(Unary=aborts))

    assert (exchange.code, exchange.text, exchange.messages) == (5, "grün", [])
    assert exchange.tail[b"x-a"] == b"1"
    assert exchange.tail[b"x-bin"] == b"AAE"
    assert len(exchange.sent) == 2


async def test_an_abort_counts_where_it_is_swallowed() -> None:
    """What a method does after it does not turn a refusal into an answer; a second one is a mistake of the method's."""

    async def swallows(request: bytes, context: Any) -> bytes:
        with pytest.raises(grpc.aio.AbortError):
            await context.abort(NOT_FOUND, "no")
        with pytest.raises(grpc.aio.UsageError):
            await context.abort(grpc.StatusCode.OK, "")
        return b"an answer"

    exchange = await Exchange().message().run(with_methods(Unary=swallows))

    assert (exchange.code, exchange.text, exchange.messages) == (5, "no", [])


async def test_an_abort_is_never_a_success() -> None:
    """With OK as its code it is UNKNOWN, as gRPC has it; a plain number is a code too."""

    async def aborts(request: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.OK if request == b"ok" else int(request), "over")

    codes = [
        (await Exchange().message(each).run(with_methods(Unary=aborts))).code for each in (b"ok", b"0", b"5", b"99")
    ]

    assert codes == [2, 2, 5, 2]


async def test_a_rich_status_can_end_a_call() -> None:
    """As `grpc_status.rpc_status.to_status` makes it."""

    class Rich(grpc.Status):  # type: ignore[misc]  # grpc has no types
        code = NOT_FOUND
        details = "gone"
        trailing_metadata = (("grpc-status-details-bin", Status(code=5).SerializeToString()),)

    async def aborts(request: bytes, context: Any) -> None:
        await context.abort_with_status(Rich())

    exchange = await Exchange().message().run(with_methods(Unary=aborts))

    assert (exchange.code, exchange.text, exchange.tail[b"grpc-status-details-bin"]) == (5, "gone", b"CAU")


async def test_a_code_that_was_set_is_the_status() -> None:
    """And an answer beside it is not sent: a caller sees the one or the other."""
    seen: list[Any] = []

    async def sets(request: bytes, context: Any) -> bytes | None:
        seen.append(context.code())
        context.set_code(NOT_FOUND)
        context.set_details("no such thing")
        context.set_trailing_metadata((("x-a", "1"),))
        if request == b"none":
            return None
        seen.extend([context.code(), context.details(), context.trailing_metadata()])
        return b"x"

    nothing = await Exchange().message(b"none").run(with_methods(Unary=sets))
    exchange = await Exchange().message().run(with_methods(Unary=sets))

    assert (exchange.code, exchange.text, exchange.messages) == (5, "no such thing", [])
    assert (nothing.code, nothing.text) == (5, "no such thing")
    assert seen == [None, None, NOT_FOUND, "no such thing", (("x-a", "1"),)]


async def test_metadata_go_before_and_after_an_answer() -> None:
    """The first at once, the last with the status."""

    async def tells(request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("x-first", "1"),))
        assert len(exchange.sent) == 2
        with pytest.raises(grpc.aio.UsageError):
            await context.send_initial_metadata(())
        context.set_trailing_metadata((("x-last", "2"),))
        return b"x"

    exchange = Exchange().message()
    await exchange.run(with_methods(Unary=tells))

    assert (exchange.head[b"x-first"], exchange.tail[b"x-last"], exchange.code) == (b"1", b"2", 0)
    assert exchange.messages == [b"x"]


async def test_metadata_that_cannot_be_sent_do_not_cost_the_status() -> None:
    """They are refused where they are set; the caller hears of a fault instead of nothing."""

    async def sets(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-a", "a\nb"),))
        return b"x"

    exchange = await Exchange().message().run(with_methods(Unary=sets))

    assert (exchange.code, exchange.text) == (2, "internal error; the log has it")


async def test_the_caller_is_told_to_the_method() -> None:
    """Metadata, address, and the time that is left."""
    seen: list[Any] = []

    async def looks(request: bytes, context: Any) -> bytes:
        seen.extend(
            [context.invocation_metadata()[1:], context.peer(), context.time_remaining() > 4, context.auth_context()]
        )
        return b""

    heads = headers((b"grpc-timeout", b"5S"), (b"x-a", b"1"), (b"x-bin", b"AAE="))
    await Exchange(heads=heads).message().run(with_methods(Unary=looks))

    assert seen == [(("x-a", "1"), ("x-bin", b"\0\1")), "ipv4:127.0.0.1:40000", True, {}]


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (frame(b"a") + frame(b"b"), UNIMPLEMENTED, "exactly one request; more came"),
        (frame(b"a") + b"\0", UNIMPLEMENTED, "exactly one request; more came"),
        (b"", UNIMPLEMENTED, "exactly one request; none came"),
        (b"\0\0\0", INTERNAL, "ends within a message"),
        (frame(b"abc")[:-1], INTERNAL, "ends within a message"),
        (b"\7\0\0\0\0", INTERNAL, "expected 0 or 1"),
        (b"\0\xff\xff\xff\xff", EXHAUSTED, "larger than max"),
        (frame(bytes(101)), EXHAUSTED, r"larger than max \(101 vs. 100\)"),
        (b"\1\0\0\0\1x", INTERNAL, "names no compression"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_that_is_not_one_message_is_refused(body: bytes, code: int, said: str, *, whole: bool) -> None:
    """In whatever parts it comes; the method is not called."""
    exchange = Exchange()
    for at in range(len(body)):
        if not whole:
            exchange.feed(body[at : at + 1])
    exchange.feed(body if whole else b"", more=False)

    await exchange.run(with_methods(Unary=echo, max_receive=100))

    assert exchange.code == code
    assert re.search(said, exchange.text)


async def test_bytes_that_are_no_message_are_internal() -> None:
    """As gRPC has it; whoever wants another status gives a parser that does not raise."""
    application = Application()
    health_pb2_grpc.add_HealthServicer_to_server(Health(), application)

    exchange = await Exchange("/grpc.health.v1.Health/Check").message(b"\xff\xff").run(application)

    assert exchange.code == INTERNAL


async def test_an_answer_over_the_limit_is_refused() -> None:
    """The caller could not take it."""

    async def large(request: bytes, context: Any) -> bytes:
        return bytes(101)

    exchange = await Exchange().message().run(with_methods(Unary=large, max_send=100))

    assert (exchange.code, exchange.messages) == (EXHAUSTED, [])
    assert "Sent message larger than max (101 vs. 100)" in exchange.text


@pytest.mark.parametrize("size", [10, 10_000])
async def test_a_compressed_request_is_unpacked(size: int) -> None:
    """A large one, in a thread."""
    body = frame(gzip.compress(bytes(range(256)) * size), compressed=True)

    exchange = (
        await Exchange(heads=headers((b"grpc-encoding", b"gzip"))).feed(body, more=False).run(with_methods(Unary=echo))
    )

    assert exchange.messages == [bytes(range(256)) * size]


async def test_an_unknown_encoding_is_unimplemented() -> None:
    """Whether or not a message makes use of it, and with those that we have."""
    exchange = await Exchange(heads=headers((b"grpc-encoding", b"zstd"))).message().run(with_methods(Unary=echo))

    assert exchange.code == UNIMPLEMENTED
    assert exchange.tail[b"grpc-accept-encoding"] == b"identity, deflate, gzip"


@pytest.mark.parametrize(("accepted", "packed"), [(b"identity, gzip", True), (b"identity", False)])
async def test_an_answer_is_compressed_for_those_who_can_unpack_it(accepted: bytes, *, packed: bool) -> None:
    """The method may only wish for it."""

    async def compresses(request: bytes, context: Any) -> bytes:
        context.set_compression(grpc.Compression.Gzip)
        return bytes(50_000)

    heads = [each for each in headers() if each[0] != b"grpc-accept-encoding"] + [(b"grpc-accept-encoding", accepted)]
    exchange = await Exchange(heads=heads).message().run(with_methods(Unary=compresses))

    frames = Frames(1 << 20)
    for event in exchange.sent[1:-1]:
        frames.feed(event["body"])
    found = frames.take()
    assert found is not None
    assert (exchange.head.get(b"grpc-encoding") == b"gzip", found[0]) == (packed, packed)
    assert (gzip.decompress(found[1]) if packed else found[1]) == bytes(50_000)


@pytest.mark.parametrize(
    ("header", "said"), [((b"grpc-timeout", b"5x"), "grpc-timeout"), ((b"x-bin", b"*"), "expected base64")]
)
async def test_a_header_that_cannot_be_read_is_internal(header: tuple[bytes, bytes], said: str) -> None:
    """The text says which one."""

    async def reads(request: bytes, context: Any) -> bytes:
        context.invocation_metadata()
        return b""

    exchange = await Exchange(heads=headers(header)).message().run(with_methods(Unary=reads))

    assert exchange.code == INTERNAL
    assert said in exchange.text


async def test_a_caller_that_takes_no_trailers_is_refused() -> None:
    """Its status could not be sent, and it would take an answer's end for success."""
    heads = [each for each in headers() if each[0] != b"te"]

    exchange = await Exchange(heads=heads).message().run(with_methods(Unary=echo))

    assert (exchange.code, exchange.messages) == (INTERNAL, [])


@pytest.mark.parametrize("content_type", [b"application/json", b"application/grpc-web", b""])
async def test_what_is_not_grpc_is_answered_in_http(content_type: bytes) -> None:
    """415, as the protocol says; a suffix of gRPC's own type is gRPC."""
    other = await Exchange(heads=headers(content_type=content_type)).message().run(with_methods(Unary=echo))
    proto = (
        await Exchange(heads=headers(content_type=b"application/grpc+proto")).message().run(with_methods(Unary=echo))
    )

    assert (other.sent[0]["status"], b"grpc-status" in other.head) == (415, False)
    assert proto.code == 0
