"""Callers who give or take slowly: how much of what they send is held, how long, and when an answer is done with."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from infermesh.transport.asgi import Application
from infermesh.transport.asgi.call import MAX_UNREAD_BYTES
from infermesh.transport.asgi.limits import READ_WITHIN_S, Unfinished
from infermesh.transport.asgi.ticker import TICK_S
from infermesh.transport.asgi.wire import WireError, frame
from tests.unit.transport.asgi.driver import Exchange
from tests.unit.transport.asgi.parts import settled, started, until, with_methods

OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 4, 8
MESSAGE, SMALL = frame(b"x" * 600), frame(b"y" * 200)
MOST = 1000


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def collect(requests: Any, context: Any) -> bytes:
    return b"".join([each async for each in requests])


async def unread(requests: Any, context: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


def held(application: Application) -> int:
    return application._limits.unfinished.held


def test_what_is_held_has_a_bound_over_all() -> None:
    """Whoever goes over it is told; what was let go is there for others."""
    unfinished = Unfinished(10)
    unfinished.take(6)

    with pytest.raises(WireError, match="hold more than 10 bytes") as refused:
        unfinished.take(5)

    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    unfinished.let_go(5)
    unfinished.take(4)


@pytest.mark.parametrize("path", ["/t.T/Unary", "/t.T/Collect"])
async def test_requests_that_do_not_end_have_a_bound_together(path: str) -> None:
    """The call that goes over it is refused, one before it goes on, and one after it has its room."""
    application = with_methods(Unary=echo, Collect=collect, max_unfinished=MOST)
    first, second, third = Exchange(path), Exchange(path), Exchange(path)
    running = [started(application, each.feed(MESSAGE[:-1])) for each in (first, second)]
    await until(running[1])

    assert (second.code, first.sent) == (RESOURCE_EXHAUSTED, [])
    running.append(started(application, third.feed(SMALL[:50])))
    await settled()
    third.feed(SMALL[50:], more=False)
    first.feed(MESSAGE[-1:], more=False)
    await until(asyncio.gather(*running))

    assert [(first.code, first.messages), (third.code, third.messages)] == [(OK, [MESSAGE[5:]]), (OK, [SMALL[5:]])]
    assert held(application) == 0


async def test_requests_that_nobody_reads_count() -> None:
    """What waits for a method that does not read is held, too."""
    application = with_methods(Collect=unread, max_unfinished=MOST)
    first, second = (Exchange("/t.T/Collect").feed(MESSAGE) for _ in range(2))
    running = [started(application, each) for each in (first, second)]
    await until(running[1])

    assert second.code == RESOURCE_EXHAUSTED
    first.go()
    await settled()
    running[0].cancel()
    await until(running[0])
    assert held(application) == 0


@pytest.mark.parametrize("end", ["message", "cut", "two", "gone", "zip"])
@pytest.mark.parametrize("path", ["/t.T/Unary", "/t.T/Collect"])
async def test_nothing_stays_counted(path: str, end: str) -> None:
    """However a request ends."""
    application = with_methods(Unary=echo, Collect=collect, max_unfinished=10 * MOST)
    exchange = Exchange(path).feed(MESSAGE[:200])
    running = started(application, exchange)
    await settled()
    assert held(application) == 200

    if end == "gone":
        exchange.go()
    else:
        rest = {
            "message": MESSAGE[200:],
            "cut": MESSAGE[200:-1],
            "two": MESSAGE[200:] + MESSAGE,
            "zip": MESSAGE[200:] + b"\1",
        }
        exchange.feed(rest[end], more=False)
    await until(running)

    assert held(application) == 0


async def test_a_request_has_a_time_to_come_whole() -> None:
    """A caller without a deadline does not hold its place for ever; one whose request has come may take its time."""
    application = with_methods(Unary=unread)
    slow, whole = Exchange().feed(MESSAGE[:-1]), Exchange().message()
    running = [started(application, each) for each in (slow, whole)]
    await settled()

    for _ in range(int(READ_WITHIN_S / TICK_S) - 1):
        application.ticker.tick()
    await settled()
    assert not slow.sent
    for _ in range(30):
        application.ticker.tick()
    await settled()

    assert (slow.code, "no whole request" in slow.text, whole.sent) == (DEADLINE_EXCEEDED, True, [])
    for each in (slow, whole):
        each.go()
    application.ticker.tick()
    for _ in range(20):
        application.ticker.tick()
        await settled()
    await until(asyncio.gather(*running))


@pytest.mark.parametrize(("size", "is_done"), [(MAX_UNREAD_BYTES, True), (MAX_UNREAD_BYTES + 1, False)])
async def test_a_large_answer_is_done_with_when_it_is_taken(size: int, *, is_done: bool) -> None:
    """Until then the call holds its place; a small one is left to the host."""

    async def large(request: bytes, context: Any) -> bytes:
        return bytes(size)

    application = with_methods(Unary=large)
    exchange = Exchange().message()
    exchange.is_slow = True
    running = started(application, exchange)
    await settled()

    assert (application.in_flight == 0) is is_done
    exchange.drain()
    await until(running)
    assert (exchange.code, len(exchange.messages[0])) == (OK, size)


async def test_a_caller_who_never_takes_its_answer_may_go() -> None:
    """Its place is free then."""

    async def large(request: bytes, context: Any) -> bytes:
        return bytes(MAX_UNREAD_BYTES + 1)

    application = with_methods(Unary=large)
    exchange = Exchange().message()
    exchange.is_slow = True
    running = started(application, exchange)
    await settled()
    assert application.in_flight == 1

    exchange.go()
    await until(running)

    assert application.in_flight == 0
