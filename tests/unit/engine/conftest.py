"""A supervised program as a process, and a caller of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest

PROGRAM = Path(__file__).with_name("engine_program.py")
WITHIN_S = 30


@dataclass
class Supervised:
    """A supervisor with its Envoy processes."""

    child: asyncio.subprocess.Process
    grpc_port: int = 0
    http_port: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    _heard: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    async def read(self) -> None:
        assert self.child.stderr is not None
        async for line in self.child.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"message": line.decode().rstrip()}
            self.log.append(entry)
            self._heard.set()
            self._heard = asyncio.Event()

    async def says(self, words: str, times: int = 1) -> list[dict[str, Any]]:
        """Wait for log lines with these words."""
        async with asyncio.timeout(WITHIN_S):
            while len(found := [each for each in self.log if words in str(each.get("message"))]) < times:
                await self._heard.wait()
        return found

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(WITHIN_S):
            return await self.child.wait()

    async def http(self, path: str) -> tuple[int, str]:
        def ask() -> tuple[int, str]:
            try:
                with urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
                    return int(answer.status), answer.read().decode()
            except HTTPError as error:
                return error.code, ""

        return await asyncio.to_thread(ask)

    async def until(self, holds: Callable[[], Any]) -> None:
        """Wait until a coroutine function's answer is true."""
        async with asyncio.timeout(WITHIN_S):
            while not await holds():
                await asyncio.sleep(0.02)

    async def until_ready(self) -> None:
        async def ready() -> bool:
            return (await self.http("/ready"))[0] == 200

        await self.until(ready)

    def pids(self) -> set[int]:
        """Its Envoy processes, as the kernel lists them."""
        return set(map(int, Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()))


Started = Callable[..., Any]


@pytest.fixture
def supervised() -> Started:
    """Start one: `async with supervised(processes=2, program={...}) as it`."""

    @asynccontextmanager
    async def started(
        *, program: Any = None, pace: Any = None, tls: Any = None, listens: bool = True, **settings: Any
    ) -> AsyncIterator[Supervised]:
        told: dict[str, Any] = {"settings": settings, "program": program or {}, "pace": pace or {}}
        if tls is not None:
            told["tls"] = tls
        if tls is not None:
            settings |= {"tls": True, "mutual": "client_ca" in tls}
            told["settings"] = settings
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), json.dumps(told), stderr=asyncio.subprocess.PIPE
        )
        it = Supervised(child)
        reading = asyncio.ensure_future(it.read())
        try:
            if listens:
                (line,) = await it.says("listening")
                it.grpc_port, it.http_port = line["grpc_port"], line["http_port"]
            yield it
        finally:
            if child.returncode is None:
                child.send_signal(signal.SIGTERM)
                child.send_signal(signal.SIGINT)  # the second one ends it at once
                await it.ended()
            await asyncio.wait({reading}, timeout=WITHIN_S)  # an orphan would hold the pipe
            reading.cancel()

    return started


@asynccontextmanager
async def channel(target: str, credentials: Any = None) -> AsyncIterator[Any]:
    """A channel with a connection of its own, and `call(method, body)` on it."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    opened = (
        grpc.aio.insecure_channel(target, options=options)
        if credentials is None
        else grpc.aio.secure_channel(
            target, credentials, options=[*options, ("grpc.ssl_target_name_override", "engine")]
        )
    )
    async with opened:
        yield opened


def call(
    opened: Any,
    method: str,
    body: bytes = b"",
    *,
    path: str = "",
    metadata: Any = None,
    wait: bool = True,
    timeout: float = WITHIN_S,
) -> Any:
    """One unary call, of bytes."""
    stub = opened.unary_unary(path or f"/test.Engine/{method}", request_serializer=bytes, response_deserializer=bytes)
    return stub(body, wait_for_ready=wait, timeout=timeout, metadata=metadata)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def folder_of(pid: int) -> Path:
    """Where the files of an Envoy process are, by its command line."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return next(Path(word).parent for word in words if word.endswith(".envoy.json"))
