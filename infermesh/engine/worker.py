"""What runs in the Python inside Envoy: an ASGI application, and round it a program's life.

pyvoy imports `infermesh.engine.worker:application` in a thread of its own and drives it on one event loop, uvloop's. The program,
a service as `infermesh.runtime` builds it, is a coroutine that is given a `Worker`; a file that the supervisor wrote says which.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from infermesh.engine.control import open_control

__all__ = ["ORDER", "Main", "Worker", "application", "reference", "resolve"]

ORDER = "INFERMESH_ENGINE_ORDER"
"""Variable with the path of the file that says what to run."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]

EXIT_FAILED = 1
_UNAVAILABLE = [
    (b"content-type", b"application/grpc"),
    (b"grpc-status", b"14"),
    (b"grpc-message", b"the service is starting"),
]

_log = logging.getLogger(__name__)


class ProgramFailed(Exception):
    """The program can't go on; the status is what the service exits with, the text what a user reads."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Worker:
    """What a program is given, and how it says what it does.

    The program sets `app` as soon as it can answer, `is_ready`, `in_flight` and `metrics`, and awaits three events, which come in
    this order: `draining` (health NOT_SERVING, calls are still answered), `leaving` (no new connection comes; end what only
    watches, finish what was accepted) and `closing` (close everything and return).
    """

    def __init__(self, order: Message) -> None:
        self.order: Message = order
        self.app: Asgi | None = None
        self.is_ready: Callable[[], bool] = lambda: False
        self.in_flight: Callable[[], int] = lambda: 0
        self.metrics: Callable[[], bytes] = lambda: b""
        self.draining, self.leaving, self.closing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.failure: ProgramFailed | None = None

    async def _state(self) -> bytes:
        failed = self.failure and {"status": self.failure.status, "text": str(self.failure)}
        in_flight = self.in_flight()
        return json.dumps({"ready": self.is_ready(), "in_flight": in_flight, "failed": failed}).encode()

    async def _metrics(self) -> bytes:
        return await asyncio.to_thread(self.metrics)

    async def _drain(self) -> bytes:
        self.draining.set()
        return str(self.in_flight()).encode()

    async def _leave(self) -> bytes:
        self.draining.set()
        self.leaving.set()
        return b""

    async def serve(self, socket: Path) -> asyncio.Server:
        """Answer the supervisor."""
        answers = {
            "/state": self._state,
            "/metrics": self._metrics,
            "/drain": self._drain,
            "/leave": self._leave,
        }
        return await open_control(socket, answers)

    async def run(self, main: Main) -> None:
        """Run the program. What it raises is kept as `failure`: out of a task, SystemExit would end the loop's thread, and Envoy
        would go on accepting calls that nobody answers."""
        try:
            await main(self)
            if not self.closing.is_set():
                self.failure = ProgramFailed("the program has ended by itself", EXIT_FAILED)
        except ProgramFailed as failure:
            self.failure = failure
        except BaseException as error:
            _log.critical("the program has failed: %s", error, exc_info=error)
            status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else EXIT_FAILED
            self.failure = ProgramFailed(f"{type(error).__name__}: {error}", status or EXIT_FAILED)


Main = Callable[[Worker], Awaitable[None]]

_worker: Worker | None = None


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """The ASGI application that Envoy drives."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif _worker is not None and _worker.app is not None:
        await _worker.app(scope, receive, send)
    else:
        await send({"type": "http.response.start", "status": 200, "headers": _UNAVAILABLE})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _live(receive: Receive, send: Send) -> None:
    """From the start to the end; Envoy listens when the start is told complete, and ends when the end is."""
    global _worker
    await receive()
    order = json.loads(Path(os.environ[ORDER]).read_text())  # noqa: ASYNC240  # nothing else runs yet
    mend(order)
    worker = _worker = Worker(order["program"])
    control = await worker.serve(Path(order["control"]))
    program = asyncio.ensure_future(_program(worker, order["main"]))
    if order["held"]:
        await _until_ready(worker)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    for event in (worker.draining, worker.leaving, worker.closing):
        event.set()
    await asyncio.wait({program})
    control.close()
    await send({"type": "lifespan.shutdown.complete"})


async def _program(worker: Worker, main: str) -> None:
    async def found(worker: Worker) -> None:
        await resolve(main)(worker)

    await worker.run(found)


async def _until_ready(worker: Worker) -> None:
    """Calls go to the processes beside this one until it is ready: it does not listen before. One that fails never does, and is
    ended by the supervisor."""
    while not worker.is_ready():  # noqa: ASYNC110  # asked rather than told, as the supervisor does
        await asyncio.sleep(0.02)


def mend(order: Message) -> None:
    """Make the process look like the supervisor's for what looks at it: its children would start with Envoy's libraries and
    Python's home otherwise, or with no Python at all."""
    sys.executable = order["executable"]
    for name, value in order["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def reference(named: Any) -> str:
    """`module:name` by which another process finds it; of a script, its file in place of the module."""
    module = sys.modules[named.__module__]
    if module.__name__ != "__main__":
        return f"{module.__name__}:{named.__qualname__}"
    spec = module.__spec__
    return f"{module.__file__ if spec is None else spec.name}:{named.__qualname__}"


def resolve(written: str) -> Any:
    """What `reference` was made of."""
    place, _, name = written.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location("__infermesh_program__", place)
        assert spec is not None and spec.loader is not None
        module = sys.modules.get(spec.name)
        if module is None:
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return found
