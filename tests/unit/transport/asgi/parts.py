"""What the tests of the adaptor put together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from infermesh.transport.asgi import Application
from tests.unit.transport.asgi.driver import Exchange

__all__ = ["Clock", "settled", "started", "until", "with_methods"]

KINDS: dict[str, Callable[..., Any]] = {
    "Unary": grpc.unary_unary_rpc_method_handler,
    "Watch": grpc.unary_stream_rpc_method_handler,
    "Collect": grpc.stream_unary_rpc_method_handler,
    "Chat": grpc.stream_stream_rpc_method_handler,
}


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def with_methods(*, clock: Callable[[], float] | None = None, **methods: Any) -> Application:
    """An application whose service `t.T` has these methods, on bytes; the name says the kind. `max_…` go to the application."""
    options = {name: methods.pop(name) for name in list(methods) if name not in KINDS}
    if clock is not None:
        options["clock"] = clock
    application = Application(**options)
    handlers = {name: KINDS[name](method) for name, method in methods.items()}
    application.add_registered_method_handlers("t.T", handlers)
    return application


def started(application: Application, exchange: Exchange) -> asyncio.Task[Exchange]:
    return asyncio.ensure_future(exchange.run(application))


async def settled() -> None:
    """Whatever can go on without something new has done so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(awaited: Awaitable[Any]) -> Any:
    """What must come; a test that waits in vain fails instead of hanging."""
    coming = asyncio.ensure_future(awaited)
    done, _ = await asyncio.wait({coming}, timeout=10)
    assert done, "it did not come"
    return coming.result()
