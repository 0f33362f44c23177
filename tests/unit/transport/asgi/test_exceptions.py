"""Whatever escapes a method, the caller gets a status; a host would make success of an exception."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from infermesh.transport.asgi import Application
from tests.unit.transport.asgi.driver import Exchange
from tests.unit.transport.asgi.parts import settled, started, until, with_methods

UNKNOWN, CANCELLED, INTERNAL = 2, 1, 13


class Own(BaseException):
    """One that no library knows."""


ESCAPING: list[tuple[BaseException, int]] = [
    (ValueError("secret"), UNKNOWN),
    (OSError("secret"), UNKNOWN),
    (StopAsyncIteration(), UNKNOWN),
    (StopIteration(), UNKNOWN),
    (MemoryError(), UNKNOWN),
    (SystemExit(3), UNKNOWN),
    (KeyboardInterrupt(), UNKNOWN),
    (GeneratorExit(), UNKNOWN),
    (Own(), UNKNOWN),
    (asyncio.CancelledError(), CANCELLED),
    (grpc.aio.AbortError(), UNKNOWN),
    (BaseExceptionGroup("several", [SystemExit(1)]), UNKNOWN),
]
EVERY = pytest.mark.parametrize(("error", "code"), ESCAPING, ids=lambda each: type(each).__name__)


@EVERY
async def test_an_exception_of_a_unary_method_is_a_status(error: BaseException, code: int) -> None:
    """Of every class, those that end a program included; its text stays in the log."""

    async def raises(request: bytes, context: Any) -> bytes:
        raise error

    exchange = await Exchange().message().run(with_methods(Unary=raises))

    assert (exchange.code, exchange.messages) == (code, [])
    assert "secret" not in exchange.text


@EVERY
async def test_an_exception_after_an_answer_is_a_status_behind_it(error: BaseException, code: int) -> None:
    """What was sent stays sent, and the stream ends well for HTTP."""

    async def raises(request: bytes, context: Any) -> None:
        await context.write(b"one")
        raise error

    exchange = await Exchange("/t.T/Watch").message().run(with_methods(Watch=raises))

    assert (exchange.code, exchange.messages) == (code, [b"one"])


@EVERY
async def test_an_exception_of_a_stream_of_requests_is_a_status(error: BaseException, code: int) -> None:
    """While more of them come."""

    async def raises(requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for _ in requests:
            raise error
        return b""

    exchange = await Exchange("/t.T/Collect").message(more=True).run(with_methods(Collect=raises))

    assert (exchange.code, exchange.messages) == (code, [])


async def test_a_code_that_was_set_before_is_the_status_of_an_exception() -> None:
    """As grpc.aio has it; the text stays ours."""

    async def raises(request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        raise ValueError

    assert (await Exchange().message().run(with_methods(Unary=raises))).code == 5


async def test_a_method_that_is_no_coroutine_is_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    """Synchronous methods are not served: they would hold up all others."""

    def synchronous(request: bytes, context: Any) -> bytes:
        return request

    exchange = await Exchange().message().run(with_methods(Unary=synchronous))

    assert exchange.code == UNKNOWN
    assert "/t.T/Unary" in caplog.text


async def test_an_answer_that_cannot_be_serialised_is_a_status() -> None:
    """Nothing of it is sent."""

    async def wrong(request: bytes, context: Any) -> Any:
        return "text"

    exchange = await Exchange().message().run(with_methods(Unary=wrong))

    assert (exchange.code, exchange.messages) == (UNKNOWN, [])


async def test_a_serialiser_that_fails_like_a_connection_is_a_status() -> None:
    """Only what the host raises means that the caller has gone."""

    def failing(message: bytes) -> bytes:
        raise OSError("disk")

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    application = Application()
    handler = grpc.unary_unary_rpc_method_handler(echo, response_serializer=failing)
    application.add_registered_method_handlers("t.T", {"Unary": handler})

    assert (await Exchange().message().run(application)).code == UNKNOWN


async def test_a_callback_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The others are called, each with the context, after the status; the call was answered."""
    called: list[Any] = []

    def exits(context: Any) -> None:
        raise SystemExit(1)

    async def method(request: bytes, context: Any) -> bytes:
        context.add_done_callback(exits)
        context.add_done_callback(lambda ended: called.append((ended is context, ended.done(), exchange.is_complete)))
        return b"x"

    exchange = Exchange().message()
    await exchange.run(with_methods(Unary=method))

    assert (exchange.code, called) == (0, [(True, True, True)])
    assert "internal error in /t.T/Unary" in caplog.text


async def test_a_host_whose_receive_fails_ends_the_call() -> None:
    """A task of ours receives what a stream sends: what it dies of must not pass unseen, nor end the loop."""

    async def collects(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([each async for each in requests])

    class Failing(Exchange):
        def receive(self) -> Any:
            raise SystemExit(1)

    exchange = await until(Failing("/t.T/Collect").run(with_methods(Collect=collects)))

    assert exchange.code == INTERNAL


async def test_a_caller_who_is_gone_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """Callers go all the time: it is not worth a line, let alone a traceback."""
    go = asyncio.Event()

    async def waits(request: bytes, context: Any) -> bytes:
        await go.wait()
        return b"x"

    exchange = Exchange().message()
    with caplog.at_level(logging.DEBUG, "infermesh"):
        running = started(with_methods(Unary=waits), exchange)
        await settled()
        exchange.go()
        go.set()
        await until(running)

    assert (exchange.sent, caplog.text) == ([], "")
