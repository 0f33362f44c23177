"""Whether a service is ready, asked from outside."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from infermesh.config import ServerConfig
from infermesh.transport import Server
from infermesh.transport.probe import is_serving, wait_until_serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server that listens and is not ready."""
    server = Server("predictor", ServerConfig(host="127.0.0.1", grpc_port=0), inside_mesh=True)
    await server.start()
    yield server
    await server.stop(0)


async def test_readiness_and_life(server: Server):
    """A process that is alive and not ready is live and does not serve; then it does."""
    target = f"127.0.0.1:{server.port}"

    assert await asyncio.to_thread(is_serving, target, "live")
    assert not await asyncio.to_thread(is_serving, target)
    await server.set_ready(True)
    assert await asyncio.to_thread(is_serving, target)


async def test_waiting_ends_when_it_serves(server: Server):
    """Who waits is told soon after the service has become ready."""
    waiting = asyncio.ensure_future(asyncio.to_thread(wait_until_serving, f"127.0.0.1:{server.port}", 10.0))
    await server.set_ready(True)

    assert await waiting


async def test_waiting_ends_with_the_time(server: Server):
    """A service that does not become ready is not waited for longer than asked."""
    loop = asyncio.get_running_loop()
    started = loop.time()

    assert not await asyncio.to_thread(wait_until_serving, f"127.0.0.1:{server.port}", 0.2)
    assert 0.2 <= loop.time() - started < 2


def test_giving_up():
    """Waiting ends at once when there is nobody left to wait for."""
    assert not wait_until_serving("127.0.0.1:1", 60.0, give_up=lambda: True)


@pytest.mark.parametrize("target", ["127.0.0.1:1", "no-such-host.invalid:8001"])
def test_nobody_there(target):
    """Nobody there, or no such host, is not serving, and no error."""
    assert not is_serving(target, timeout_s=0.5)


async def test_as_a_program(server: Server):
    """The module is a program for health checks in containers: status 0 when the service serves, else 1."""

    def status() -> int:
        command = [sys.executable, "-m", "infermesh.transport.probe", f"127.0.0.1:{server.port}"]
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode

    assert await asyncio.to_thread(status) == 1
    await server.set_ready(True)
    assert await asyncio.to_thread(status) == 0
