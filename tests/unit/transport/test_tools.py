"""RPCs beside OIP: nobody calls them without being admitted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from infermesh.call import Call
from infermesh.config import ServerConfig
from infermesh.errors import PermissionDenied, Unauthenticated
from infermesh.service import Filter, InferenceService, Stack, stack
from infermesh.transport import Server

ECHO, OFF = "tools.v1.Tools/Echo", "tools.v1.Tools/Off"
GOOD = [("x-api-key", "k")]


class Guard(Filter):
    """Admits who has the key, to no model."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        self.asked.append((rpc, model))
        if call.metadata.get("x-api-key") != "k":
            raise Unauthenticated("no key")
        if model:
            raise PermissionDenied("none of yours")


@pytest.fixture
async def tools() -> AsyncIterator[Callable[..., Any]]:
    """`await tools()`: a server with two tools that offers one, and a way to call them."""
    async with AsyncExitStack() as resources:

        async def start(service: Stack | None) -> Callable[..., Any]:
            config = ServerConfig(host="127.0.0.1", grpc_port=0)
            server = Server("tested", config, inside_mesh=False, tools=[ECHO, OFF])
            await server.start()
            resources.push_async_callback(server.stop, 0)
            if service is not None:
                server.mount(service)
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
            resources.push_async_callback(channel.close)
            return lambda name, data, metadata=(): channel.unary_unary(f"/{name}")(data, metadata=metadata)

        yield start


def _offering(tool: Callable[[bytes, Call], Any]) -> tuple[Stack, Guard]:
    guard = Guard()
    service = stack(guard, service=type("Nothing", (InferenceService,), {})())
    service.tools = {ECHO: tool}
    return service, guard


async def test_a_tool_that_asks_nobody_is_called_by_nobody_without_credentials(tools: Any) -> None:
    """The service admits the call before the tool, or what is wrong with it, is looked at."""
    called: list[bytes] = []

    async def echo(data: bytes, call: Call) -> bytes:
        called.append(data)
        return data

    service, guard = _offering(echo)
    ask = await tools(service)

    for name in (ECHO, OFF):
        with pytest.raises(grpc.aio.AioRpcError, match="no key") as refused:
            await ask(name, b"x")
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert called == []
    assert await ask(ECHO, b"x", GOOD) == b"x"
    with pytest.raises(grpc.aio.AioRpcError, match="Off: switched off in this tested's settings"):
        await ask(OFF, b"x", GOOD)
    assert guard.asked == [("Echo", ""), ("Off", ""), ("Echo", ""), ("Off", "")]


async def test_a_tool_may_ask_again_about_a_model(tools: Any) -> None:
    """It alone knows what is asked about."""

    async def echo(data: bytes, call: Call) -> bytes:
        await service.admit("Echo", data.decode(), "", call)
        return data

    service, guard = _offering(echo)
    ask = await tools(service)

    with pytest.raises(grpc.aio.AioRpcError, match="none of yours") as refused:
        await ask(ECHO, b"m", GOOD)

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert guard.asked == [("Echo", ""), ("Echo", "m")]


async def test_before_a_service_is_mounted_tools_are_unavailable(tools: Any) -> None:
    """Nobody could say who may call them."""
    ask = await tools(None)

    with pytest.raises(grpc.aio.AioRpcError, match="starting") as refused:
        await ask(ECHO, b"x", GOOD)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
