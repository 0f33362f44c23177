"""Calls with a stream on one side or on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from infermesh.transport.asgi import Application
from infermesh.transport.asgi.wire import frame
from tests.unit.transport.asgi.driver import Exchange
from tests.unit.transport.asgi.parts import settled, started, until, with_methods


async def counts(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


async def test_a_generator_answers_by_a_stream() -> None:
    """The head goes with the first answer, the status behind the last."""
    exchange = await Exchange("/t.T/Watch").message(b"3").run(with_methods(Watch=counts))

    assert (exchange.messages, exchange.code) == ([b"0", b"1", b"2"], 0)


async def test_a_stream_of_no_answers_is_a_status() -> None:
    """In the head of the answer."""
    exchange = await Exchange("/t.T/Watch").message(b"0").run(with_methods(Watch=counts))

    assert (exchange.messages, exchange.code, len(exchange.sent)) == ([], 0, 2)


async def test_a_coroutine_may_write_its_answers() -> None:
    """As it may tell what goes with the status."""

    async def writes(request: bytes, context: Any) -> None:
        await context.write(b"a")
        await context.write(b"b")
        context.set_trailing_metadata((("x-a", "1"),))

    exchange = await Exchange("/t.T/Watch").message().run(with_methods(Watch=writes))

    assert (exchange.messages, exchange.code, exchange.tail[b"x-a"]) == ([b"a", b"b"], 0, b"1")


async def test_an_answer_over_the_limit_ends_a_stream() -> None:
    """Those before it were sent."""

    async def grows(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield bytes(100)
        yield bytes(101)

    exchange = await Exchange("/t.T/Watch").message().run(with_methods(Watch=grows, max_send=100))

    assert (exchange.messages, exchange.code) == ([bytes(100)], grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])


async def test_grpcios_own_servicers_mount_unchanged() -> None:
    """Health, whose watcher writes, and reflection, whose servicer is a generator over an iterator."""
    application, health = Application(), HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, application)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(("a.B",)), application)
    asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    watch = Exchange("/grpc.health.v1.Health/Watch").message()

    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    reflected = await Exchange(path).message(asked).run(application)
    running = started(application, watch)
    await settled()
    await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    await settled()
    running.cancel()
    await until(running)

    services = reflection_pb2.ServerReflectionResponse.FromString(reflected.messages[0]).list_services_response.service
    statuses = [health_pb2.HealthCheckResponse.FromString(each).status for each in watch.messages]
    assert ([each.name for each in services], reflected.code) == (["a.B"], 0)
    assert (statuses, watch.code) == ([1, 2], 1)


async def test_requests_are_an_iterator() -> None:
    """However many of them come in a part, or parts for one of them."""

    async def collects(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"|".join([each async for each in requests])

    body = b"".join(frame(b"%d" % number) for number in range(50))
    for size in (1, 7, 1000):
        exchange = Exchange("/t.T/Collect")
        for at in range(0, len(body), size):
            exchange.feed(body[at : at + size])
        await exchange.feed(b"", more=False).run(with_methods(Collect=collects))

        assert exchange.messages == [b"|".join(b"%d" % number for number in range(50))]


async def test_requests_can_be_read_one_by_one() -> None:
    """And answered in between; after the last one `read` says so, again and again."""

    async def chats(requests: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(request.upper())
        assert await context.read() is grpc.aio.EOF

    exchange = Exchange("/t.T/Chat")
    running = started(with_methods(Chat=chats), exchange)
    for text, expected in ((b"a", [b"A"]), (b"b", [b"A", b"B"])):
        exchange.message(text, more=True)
        await settled()
        assert exchange.messages == expected
    exchange.feed(b"", more=False)
    await until(running)

    assert exchange.code == 0


async def test_requests_that_nobody_reads_are_not_taken_from_the_host() -> None:
    """So HTTP/2's window stops whoever sends them: two parts are here, and no third is asked for."""
    release = asyncio.Event()

    async def deaf(requests: Any, context: Any) -> bytes:
        await release.wait()
        return b"x"

    exchange = Exchange("/t.T/Collect")
    for _ in range(100):
        exchange.message(bytes(1000), more=True)
    running = started(with_methods(Collect=deaf), exchange)
    await settled()
    assert exchange.received == 2
    release.set()
    await until(running)

    assert (exchange.code, exchange.received) == (0, 2)


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"\0\0", 13), (frame(b"a") + b"\0\0\0\0\5abc", 13), (b"\0\xff\xff\xff\xff", 8), (b"\3\0\0\0\0", 13)],
)
async def test_a_stream_that_is_no_frames_is_refused(body: bytes, code: int) -> None:
    """By what is wrong with it, through whichever task of the method reads."""

    async def collects(requests: AsyncIterator[bytes], context: Any) -> bytes:
        async def read() -> bytes:
            return b"".join([each async for each in requests])

        return await asyncio.ensure_future(read())

    exchange = await Exchange("/t.T/Collect").feed(body, more=False).run(with_methods(Collect=collects))

    assert (exchange.code, exchange.messages) == (code, [])


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("waiting", [0, 5])
async def test_no_task_is_left_of_a_stream(waiting: int, *, is_read: bool) -> None:
    """The one that receives ends when its host ends the request, whatever came meanwhile; who still reads is let go."""
    before, readers = asyncio.all_tasks(), []

    async def leaves(requests: Any, context: Any) -> bytes:
        if is_read:
            readers.append(asyncio.ensure_future(context.read()))
        await settled()
        return b"x"

    exchange = Exchange("/t.T/Collect")
    for _ in range(waiting):
        exchange.message(more=True)
    await exchange.run(with_methods(Collect=leaves))
    exchange.message(b"late", more=True)
    exchange.message(b"later", more=True)
    await settled()
    exchange.go()
    await settled()

    assert [await until(each) for each in readers] == ([b"" if waiting else grpc.aio.EOF] if is_read else [])
    assert asyncio.all_tasks() == before


async def test_nothing_is_written_after_a_status() -> None:
    """Whoever swallows an abort is told that the call is over."""

    async def swallows(request: bytes, context: Any) -> None:
        await context.write(b"one")
        with pytest.raises(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        with pytest.raises(asyncio.CancelledError):
            await context.write(b"two")

    exchange = await Exchange("/t.T/Watch").message().run(with_methods(Watch=swallows))

    assert (exchange.messages, exchange.code) == ([b"one"], 5)


@pytest.mark.parametrize(
    ("path", "wrong"), [("Unary", "read"), ("Unary", "write"), ("Watch", "read"), ("Collect", "write")]
)
async def test_what_a_kind_does_not_have_is_refused(path: str, wrong: str) -> None:
    """A mistake of the method's, told to it."""

    async def method(request: Any, context: Any) -> bytes:
        with pytest.raises(grpc.aio.UsageError, match=wrong):
            await getattr(context, wrong)(*([b"x"] if wrong == "write" else []))
        return b""

    exchange = await Exchange(f"/t.T/{path}").message().run(with_methods(**{path: method}))

    assert exchange.code == 0
