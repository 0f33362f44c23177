"""A gateway as a process of its own, before backends that a test writes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from e2e_door import KEY
from e2e_engines import serving_pids

from infermesh.call import Call
from infermesh.cli.scrape import Samples, scrape
from infermesh.cli.service_process import ServiceProcess
from infermesh.config import ServerConfig
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, stack
from infermesh.transport import Server
from infermesh.transport.probe import ClientTls, wait_until_serving

__all__ = ["Backend", "Gateway", "resident_bytes", "serving"]

START_S = 30.0
SCRAPES = 10
Answer = Callable[[pb.ModelInferRequest, Call], Awaitable[pb.ModelInferResponse]]


class Backend(InferenceService):
    """Answers as a test says, at once and with nothing unless it says otherwise; it keeps the calls that reached it."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.calls: list[Call] = []
        self.cancelled = 0

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self.calls.append(call)
        try:
            if self.answer is not None:
                return await self.answer(request, call)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return pb.ModelInferResponse(model_name=request.model_name, id=request.id)

    async def ready(self, model: str = "", version: str = "") -> bool:
        return True


@asynccontextmanager
async def serving(service: InferenceService, **config: Any) -> AsyncIterator[str]:
    """The address of a server of the mesh in this process."""
    server = Server("backend", ServerConfig(**{"host": "127.0.0.1", "grpc_port": 0, **config}), inside_mesh=True)
    await server.start()
    server.mount(stack(service=service))
    await server.set_ready(True)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


class Gateway:
    """The process, from entry to exit: a caller with the demo key, `backends` by name, `routes` as they are written.

    `settings` are merged over its configuration, a part at a time.
    """

    def __init__(
        self,
        folder: Path,
        backends: Mapping[str, Any],
        routes: Sequence[Mapping[str, Any]],
        *,
        tls: ClientTls | None = None,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self._tls = tls  # how it is asked whether it serves
        config: dict[str, Any] = {
            "server": {"host": "127.0.0.1", "grpc_port": 0, "http_port": 0, "drain": "0"},
            "routes": "routes.yaml",
            "auth": {"keys": "keys.yaml"},
            "rate_limit": {"mode": "off"},
            "look_every": "50ms",
            "backends": {name: at if isinstance(at, dict) else {"target": at} for name, at in backends.items()},
        }
        for part, value in settings.items():
            config[part] = {**config[part], **value} if isinstance(config.get(part), dict) else value
        folder.mkdir(exist_ok=True)
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        entry = f"{{sha256: {digest}, caller: demo, tenant: demo, scopes: [infer, explain, variant, admin]}}"
        (folder / "keys.yaml").write_text(f"keys:\n  - {entry}\n")
        self.write_routes(routes)
        (folder / "gateway.yaml").write_text(yaml.safe_dump(config))

    def write_routes(self, routes: Sequence[Mapping[str, Any]], **rest: Any) -> None:
        """Put a new route file into the place of the old one."""
        new = self.folder / "routes.new"
        new.write_text(yaml.safe_dump({"routes": list(routes), **rest}))
        new.replace(self.folder / "routes.yaml")

    async def __aenter__(self) -> Gateway:
        return await asyncio.to_thread(self._start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.terminate()
        if not await asyncio.to_thread(self._process.wait, 30.0):
            self._process.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_words(self) -> str:
        """Its errors, and what was no log line."""
        return self._process.last_words()

    def samples(self) -> Samples:
        """What it tells now; on a busy machine it may need longer than one scrape waits."""
        for _ in range(SCRAPES):
            if (found := scrape(self.http_address)) is not None:
                return found
        raise AssertionError("the gateway does not answer on its HTTP port")

    def sample(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return self.samples().total(name, **labels)

    def generation(self, file: str) -> float:
        """How often a file of its own was taken over."""
        return self.sample("infermesh_gateway_file_generation", file=file)

    def _start(self) -> Gateway:
        self._process = ServiceProcess("gateway", self.folder / "gateway.yaml", {})
        try:
            self._await_ports()
            assert wait_until_serving(
                self.address, START_S, give_up=lambda: self._process.status is not None, tls=self._tls
            )
        except BaseException:
            self._process.kill()
            raise
        return self

    def _await_ports(self) -> None:
        end, pause = time.monotonic() + START_S, threading.Event()
        while time.monotonic() < end and self._process.status is None:
            for line in list(self._process.log):
                if line.get("message") == "listening":
                    self.address = f"127.0.0.1:{line['grpc_port']}"
                    self.http_address = f"127.0.0.1:{line['http_port']}"
                    return
            pause.wait(0.02)
        raise AssertionError(f"the gateway did not start: {self._process.last_words()}")


def resident_bytes(pid: int) -> int:
    """Memory of the processes that carry the calls of a service."""
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in serving_pids(pid))
    return pages * os.sysconf("SC_PAGE_SIZE")
