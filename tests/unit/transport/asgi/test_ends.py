"""What ends a call from outside: its deadline, its caller, the server."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from infermesh.transport.asgi.context import Context
from infermesh.transport.asgi.requests import Requests
from infermesh.transport.asgi.wire import WireError
from tests.unit.transport.asgi.driver import Exchange, headers
from tests.unit.transport.asgi.parts import Clock, settled, started, until, with_methods

DEADLINE_EXCEEDED, UNAVAILABLE = 4, 14
FIVE_S = headers((b"grpc-timeout", b"5S"))


class Hanging:
    """Methods that wait for ever, and keep what they were ended by."""

    def __init__(self) -> None:
        self.ended_by: list[str] = []
        self.contexts: list[Any] = []

    async def unary(self, request: Any, context: Any) -> bytes:
        self.contexts.append(context)
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            self.ended_by.append(type(error).__name__)
            raise
        return b""

    async def watch(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await self.unary(request, context)


async def test_a_deadline_ends_the_method_and_is_the_status() -> None:
    """When the clock has come to it, and not before."""
    clock, hanging = Clock(), Hanging()
    application = with_methods(clock=clock, Unary=hanging.unary)
    exchange = Exchange(heads=FIVE_S).message()
    running = started(application, exchange)
    await settled()

    clock.now += 4.9
    application.ticker.expire()
    await settled()
    assert not exchange.sent
    clock.now += 0.2
    application.ticker.expire()
    await until(running)

    assert (exchange.code, hanging.ended_by) == (DEADLINE_EXCEEDED, ["CancelledError"])
    assert hanging.contexts[0].time_remaining() == 0.0


async def test_a_deadline_comes_by_itself() -> None:
    """By a timer of the loop."""
    hanging = Hanging()

    exchange = await until(
        Exchange(heads=headers((b"grpc-timeout", b"5m"))).message().run(with_methods(Unary=hanging.unary))
    )

    assert exchange.code == DEADLINE_EXCEEDED


async def test_a_deadline_that_has_passed_starts_nothing() -> None:
    """Nothing works for a caller who no longer waits."""
    hanging = Hanging()

    exchange = await Exchange(heads=headers((b"grpc-timeout", b"0n"))).message().run(with_methods(Unary=hanging.unary))

    assert (exchange.code, hanging.contexts) == (DEADLINE_EXCEEDED, [])


async def test_a_method_that_ignores_its_end_does_not_change_the_status() -> None:
    """An answer after the deadline is none."""
    clock = Clock()

    async def stubborn(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return b"late"
        return b""

    application = with_methods(clock=clock, Unary=stubborn)
    exchange = Exchange(heads=FIVE_S).message()
    running = started(application, exchange)
    await settled()
    clock.now += 6
    application.ticker.expire()
    await until(running)

    assert (exchange.code, exchange.messages) == (DEADLINE_EXCEEDED, [])


@pytest.mark.parametrize("then", [b"\0\0\0", b"\0", None])
async def test_a_request_that_never_ends_has_a_deadline_too(
    then: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Its status is sent, once, and the host's own future is left to it: it complains of one that was cancelled. What comes
    afterwards, be it whole, starts nothing."""
    clock, hanging = Clock(), Hanging()
    application = with_methods(clock=clock, Unary=hanging.unary)
    exchange = Exchange(heads=FIVE_S).feed(b"\0\0")
    running = started(application, exchange)
    await settled()

    clock.now += 6
    application.ticker.expire()
    await settled()
    assert exchange.code == DEADLINE_EXCEEDED
    if then is None:
        exchange.go()
    else:
        exchange.feed(then, more=False)
    await until(running)

    assert (application.in_flight, hanging.contexts, caplog.text) == (0, [], "")


async def test_a_deadline_ends_a_method_that_swallowed_an_abort() -> None:
    """The status stays the first one."""
    clock = Clock()

    async def swallows(request: bytes, context: Any) -> None:
        with pytest.raises(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        await asyncio.Event().wait()

    application = with_methods(clock=clock, Unary=swallows)
    exchange = Exchange(heads=FIVE_S).message()
    running = started(application, exchange)
    await settled()
    clock.now += 6
    application.ticker.expire()
    await until(running)

    assert exchange.code == 5


async def test_a_method_is_ended_once() -> None:
    """By its deadline; that its caller goes as well does not break off what it does to clean up."""
    clock, cleaned, go_on = Clock(), asyncio.Event(), asyncio.Event()

    async def cleans(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            await go_on.wait()
            cleaned.set()
        return b""

    application = with_methods(clock=clock, Unary=cleans)
    exchange = Exchange(heads=FIVE_S).message()
    running = started(application, exchange)
    await settled()
    clock.now += 6
    application.ticker.expire()
    await settled()
    exchange.go()
    for _ in range(5):
        application.ticker.tick()
        await settled()
    go_on.set()
    await until(running)

    assert cleaned.is_set()


async def test_a_caller_who_goes_ends_the_method() -> None:
    """After the request's end the host says so only when it is asked: calls that last are looked after."""
    hanging, called = Hanging(), []
    application = with_methods(Unary=hanging.unary)
    exchange = Exchange().message()
    running = started(application, exchange)
    await settled()
    hanging.contexts[0].add_done_callback(lambda context: called.append(context.cancelled()))

    for _ in range(5):
        application.ticker.tick()
        await settled()
    assert not running.done()
    exchange.go()
    for _ in range(5):
        application.ticker.tick()
        await settled()
    await until(running)

    assert (exchange.sent, hanging.ended_by, called) == ([], ["CancelledError"], [True])
    assert application.in_flight == 0


async def test_a_call_that_is_soon_over_is_not_looked_after() -> None:
    """One receive for the whole of it."""
    exchange = await Exchange().message().run(with_methods(Unary=_echo))

    assert exchange.received == 1


async def test_a_host_that_waits_is_asked_once() -> None:
    """It says when the caller goes, and need not be asked again and again; nothing of the asking is left."""
    hanging, before = Hanging(), asyncio.all_tasks()
    application = with_methods(Unary=hanging.unary)
    exchange = Exchange().message()
    exchange.is_patient = True

    async def receive() -> Any:
        return await exchange.receive()

    running = asyncio.ensure_future(application(exchange.scope, receive, exchange.send))
    await settled()
    for _ in range(30):
        application.ticker.tick()
        await settled()
    assert exchange.received == 2
    hanging.contexts[0].cancel()
    await until(running)
    await settled()

    assert asyncio.all_tasks() == before


async def test_a_stream_of_requests_that_has_ended_ends_with_its_caller() -> None:
    """Then nothing is received any more but by asking."""
    hanging = Hanging()
    application = with_methods(Chat=hanging.unary)
    exchange = Exchange("/t.T/Chat").feed(b"", more=False)
    running = started(application, exchange)
    await settled()

    exchange.go()
    for _ in range(3):
        application.ticker.tick()
        await settled()
    await until(running)

    assert hanging.ended_by == ["CancelledError"]


@pytest.mark.parametrize("is_generator", [True, False])
async def test_who_writes_may_clean_up_when_its_caller_goes(*, is_generator: bool) -> None:
    """It is ended once, and before the call is over."""
    cleaned: list[bool] = []

    async def generates(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    async def writes(request: bytes, context: Any) -> None:
        try:
            while True:
                await context.write(b"x")
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    exchange = Exchange("/t.T/Watch").message()
    exchange.is_slow = True
    running = started(with_methods(Watch=generates if is_generator else writes), exchange)
    await until(exchange.answered.wait())
    await settled()

    exchange.go()
    await until(running)

    assert cleaned == [True]


async def test_a_stream_that_only_watches_ends_with_its_caller() -> None:
    """Its generator is closed."""
    hanging = Hanging()
    application = with_methods(Watch=hanging.watch)
    exchange = Exchange("/t.T/Watch").message()
    running = started(application, exchange)
    await until(exchange.answered.wait())

    exchange.go()
    for _ in range(3):
        application.ticker.tick()
        await settled()
    await until(running)

    assert hanging.ended_by == ["CancelledError"]


async def test_a_caller_who_goes_while_it_sends_ends_the_method() -> None:
    """The host says so at once, without being asked, though the method reads nothing just then."""
    hanging = Hanging()
    exchange = Exchange("/t.T/Chat").message(more=True)
    running = started(with_methods(Chat=hanging.unary), exchange)
    await settled()

    exchange.go()
    await until(running)

    assert hanging.ended_by == ["CancelledError"]


@pytest.mark.parametrize("is_blocked", [True, False])
async def test_a_caller_who_goes_ends_whoever_writes_to_it(*, is_blocked: bool) -> None:
    """While the host holds a part back, or when the next one is written; a task of the method's ends with the method."""
    ended: list[str] = []
    written: list[bool] = []

    async def writes(request: bytes, context: Any) -> None:
        async def write() -> None:
            try:
                while True:
                    await context.write(b"x")
                    written.append(True)
                    await asyncio.sleep(0)
            except BaseException as error:
                ended.append(type(error).__name__)
                raise

        task = asyncio.ensure_future(write())
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("method")
            await asyncio.wait({task})

    exchange = Exchange("/t.T/Watch").message()
    exchange.is_slow = is_blocked
    running = started(with_methods(Watch=writes), exchange)
    await until(exchange.answered.wait())
    await settled()
    assert len(exchange.sent) == 2 if is_blocked else len(exchange.sent) > 2

    exchange.go()
    await until(running)

    assert sorted(ended) == ["CancelledError", "method"]
    assert len(written) == (0 if is_blocked else len(exchange.sent) - 1)


async def test_a_deadline_ends_a_write_that_is_held_back() -> None:
    """The host's own future is left to it; the status is sent behind what was."""
    clock = Clock()

    async def writes(request: bytes, context: Any) -> None:
        while True:
            await context.write(b"x")

    application = with_methods(clock=clock, Watch=writes)
    exchange = Exchange("/t.T/Watch", heads=FIVE_S).message()
    exchange.is_slow = True
    running = started(application, exchange)
    await until(exchange.answered.wait())
    await settled()
    clock.now += 6
    application.ticker.expire()
    await until(running)

    assert exchange.code == DEADLINE_EXCEEDED
    exchange.drain()  # InvalidStateError, were the future cancelled


async def test_a_caller_who_goes_after_its_deadline_leaves_nothing_in_the_log() -> None:
    """What the host says to a write that was given up is heard by nobody, and is no error of the loop's."""
    clock, complaints = Clock(), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, about: complaints.append(about))

    async def writes(request: bytes, context: Any) -> None:
        await context.write(b"x")

    application = with_methods(clock=clock, Watch=writes)
    exchange = Exchange("/t.T/Watch", heads=FIVE_S).message()
    exchange.is_slow = True
    running = started(application, exchange)
    await until(exchange.answered.wait())
    await settled()
    clock.now += 6
    application.ticker.expire()
    await until(running)
    exchange.go()
    await settled()
    exchange._blocked.clear()
    gc.collect()

    assert complaints == []


async def test_a_server_that_stops_waits_for_its_calls() -> None:
    """Those that it has; a new one is refused as one that another replica may answer."""
    release = asyncio.Event()

    async def waits(request: bytes, context: Any) -> bytes:
        await release.wait()
        return b"x"

    application = with_methods(Unary=waits)
    first = Exchange().message()
    running = started(application, first)
    await settled()
    stopping = asyncio.ensure_future(application.stop(60))
    await settled()
    second = await Exchange().message().run(application)
    assert not stopping.done()
    release.set()
    await until(asyncio.wait({stopping, running}))

    assert (first.code, second.code, application.in_flight) == (0, UNAVAILABLE, 0)


async def test_a_server_that_waits_no_longer_ends_its_calls() -> None:
    """With a status; what the method leaves behind is its own affair."""
    hanging = Hanging()
    application = with_methods(Unary=hanging.unary)
    exchange = Exchange().message()
    running = started(application, exchange)
    await settled()

    await until(application.stop(0))
    await until(running)

    assert (exchange.code, hanging.ended_by) == (UNAVAILABLE, ["CancelledError"])


async def test_a_method_can_end_its_own_call() -> None:
    """From a callback, say; the method is ended like by anything else."""
    hanging = Hanging()
    exchange = Exchange().message()
    running = started(with_methods(Unary=hanging.unary), exchange)
    await settled()
    context = hanging.contexts[0]
    assert context.is_active()

    context.cancel()
    await until(running)

    assert (exchange.code, context.cancelled(), context.is_active()) == (1, True, False)


async def _echo(request: bytes, context: Any) -> bytes:
    return request


async def test_a_deadline_that_passes_as_the_request_comes_starts_nothing() -> None:
    """Both in one turn of the loop: the method would run for ever, since its call has been ended before it began."""
    clock, hanging = Clock(), Hanging()
    application = with_methods(clock=clock, Unary=hanging.unary)
    exchange = Exchange(heads=FIVE_S)
    running = started(application, exchange)
    await settled()

    clock.now += 6
    exchange.message()
    application.ticker.expire()
    await until(running)

    assert (exchange.code, application.in_flight, hanging.contexts) == (DEADLINE_EXCEEDED, 0, [])


@pytest.mark.parametrize("ends", ["answers", "aborts", "raises", "is late", "is unknown", "is a stream", "is left"])
async def test_a_call_leaves_nothing_to_the_garbage_collector(ends: str, caplog: pytest.LogCaptureFixture) -> None:
    """However it ends: that rarely looks, and an error whose frames hold the call that holds the error would wait for it."""
    clock = Clock()
    caplog.set_level(
        logging.CRITICAL, logger="infermesh.transport.asgi.call"
    )  # what is captured is kept, errors and all

    async def unary(request: bytes, context: Any) -> bytes:
        if ends == "aborts":
            await context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        if ends == "raises":
            raise ValueError("a defect")
        if ends == "is late":
            clock.now += 6
            application.ticker.expire()
            await asyncio.sleep(10)
        return request

    async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for each in requests:
            yield each

    async def ended() -> None:
        exchange = Exchange(path, heads=FIVE_S).message(more=ends == "is left")
        running = started(application, exchange)
        if ends == "is left":
            await until(exchange.answered.wait())
            exchange.go()
        await until(running)
        await settled()

    application = with_methods(clock=clock, Unary=unary, Chat=chat)
    path = {"is unknown": "/t.T/Nothing", "is a stream": "/t.T/Chat", "is left": "/t.T/Chat"}.get(ends, "/t.T/Unary")
    gc.collect()
    gc.disable()
    try:
        before = {id(each) for each in _of_calls()}
        await ended()
        assert [each for each in _of_calls() if id(each) not in before] == []
    finally:
        gc.enable()


def _of_calls() -> list[Any]:
    """What a call is made of, as far as it is alive. What else there is to collect may be another thread's."""
    kinds = {Context, Requests, Exchange, asyncio.Task, grpc.aio.AbortError, WireError, ValueError}
    return [each for each in gc.get_objects() if type(each) in kinds]
