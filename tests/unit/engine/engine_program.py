"""A program for the engine's tests: a few gRPC methods by hand, and a script that supervises it.

`python engine_program.py SETTINGS` takes a JSON object: fields of `Settings` and `Pace`, and what the program is told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))  # run by its path, in an environment of its own

from infermesh.config import ConfigError, PortTaken, ServerTlsConfig, TelemetryConfig
from infermesh.engine.settings import Settings
from infermesh.engine.supervisor import Pace, supervise
from infermesh.engine.worker import ProgramFailed, Worker, reference
from infermesh.telemetry import set_up_logs

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/grpc")]}
WORDS = "expected a program that starts"

_log = logging.getLogger("program")


class Program:
    """Its methods are `/test.Engine/…`: Pid, Headers, Wait (until the file it is told exists), Watch, Exit, Hang."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.calls = 0
        self.open = 0
        self.tasks: set[asyncio.Future[None]] = set()
        self.hold = Path(worker.order.get("hold", "/nowhere"))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        self.open += 1
        try:
            message = await receive()
            await self.answer(scope, message.get("body", b"")[5:], send)
        finally:
            self.open -= 1

    async def answer(self, scope: Any, body: bytes, send: Any) -> None:
        method = scope["path"].rpartition("/")[2]
        reply = str(os.getpid())
        if method == "Headers":
            reply = json.dumps([[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]])
        elif method == "Executable":
            reply = json.dumps([sys.executable, *(os.environ.get(name) for name in ("LD_PRELOAD", "PYTHONHOME"))])
        elif method == "Wait":
            while not Path(body.decode()).exists():  # noqa: ASYNC240
                await asyncio.sleep(0.02)
        elif method == "Exit":
            self.tasks.add(asyncio.ensure_future(self.exit()))  # in a task: it ends the thread of the loop
        elif method == "Hang":
            time.sleep(600)  # noqa: ASYNC251  # that is the fault
        elif method == "Kill":
            os.kill(os.getpid(), 9)
        await send({**START, "trailers": True})
        if method == "Watch":
            await send({"type": "http.response.body", "body": framed(b"watching"), "more_body": True})
            await self.worker.leaving.wait()
        await send({"type": "http.response.body", "body": framed(reply.encode()), "more_body": False})
        await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")], "more_trailers": False})

    async def exit(self) -> None:
        raise SystemExit(3)

    def metrics(self) -> bytes:
        gauge = "# TYPE infermesh_model_in_flight gauge\n"
        return f"# TYPE calls_total counter\ncalls_total {self.calls}\n{gauge}infermesh_model_in_flight {self.open}\n".encode()


async def main(worker: Worker) -> None:
    """The program, as a service would be: ready, draining, closed."""
    set_up_logs("engine", TelemetryConfig(log_format="json"))
    if status := worker.order.get("fails"):
        raise ProgramFailed(WORDS, status)
    program = Program(worker)
    worker.app, worker.metrics, worker.in_flight = program, program.metrics, lambda: program.open
    while program.hold.exists() and worker.order.get("hold_only", worker.order["process"]) == worker.order["process"]:
        if worker.closing.is_set():
            return
        await asyncio.sleep(0.02)
    worker.is_ready = lambda: not worker.draining.is_set()
    await worker.draining.wait()
    _log.info("program drains")
    await worker.closing.wait()
    _log.info("program closed", extra={"pid": os.getpid()})


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def script() -> int:
    """Supervise; exit statuses as those of a service."""
    told = json.loads(sys.argv[1])
    settings = Settings("engine", "127.0.0.1", **{"grpc_port": 0, "http_port": 0, "drain_s": 0.0, **told["settings"]})
    set_up_logs("engine", TelemetryConfig(log_format="json"))
    tls = ServerTlsConfig(**told["tls"]) if "tls" in told else None
    pace = Pace(**{"look_every_s": 0.05, "first_pause_s": 0.05, **told.get("pace", {})})
    try:
        return asyncio.run(supervise(settings, reference(main), told.get("program", {}), tls=tls, pace=pace))
    except PortTaken as error:
        print(error, file=sys.stderr)
        return 3
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(script())
