"""A program on Envoy whose objects can be counted: `Echo`, `Collect` and `Chat` on bytes, and what is alive after them.

`python counted_program.py` supervises it, with a log line that tells the port.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # run by its path

import grpc

from infermesh.config import TelemetryConfig
from infermesh.engine.settings import Settings
from infermesh.engine.supervisor import supervise
from infermesh.engine.worker import Worker, reference
from infermesh.telemetry import set_up_logs
from infermesh.transport.asgi import Application, Context

SERVICE = "test.Counted"


async def echo(request: bytes, context: Any) -> bytes:
    if request == b"fail":
        raise ValueError("as it was asked to")
    return request


async def hang(request: bytes, context: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([each async for each in requests])


async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for each in requests:
        yield each


async def main(worker: Worker) -> None:
    set_up_logs("counted", TelemetryConfig(log_format="json", log_level="error"))
    application = Application()
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Hang": grpc.unary_unary_rpc_method_handler(hang),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }
    application.add_registered_method_handlers(SERVICE, handlers)

    def counted() -> bytes:
        gc.collect()
        alive = gc.get_objects()
        kinds = {
            "objects": len(alive),
            "contexts": sum(isinstance(each, Context) for each in alive),
            "tasks": sum(isinstance(each, asyncio.Task) for each in alive),
            "unfinished": application._limits.unfinished.held,
            "in_flight": application.in_flight,
        }
        return "".join(f"# TYPE {name} gauge\n{name} {count}\n" for name, count in kinds.items()).encode()

    worker.app, worker.metrics, worker.in_flight = application, counted, lambda: application.in_flight
    worker.is_ready = lambda: not worker.draining.is_set()
    await worker.closing.wait()


if __name__ == "__main__":
    set_up_logs("counted", TelemetryConfig(log_format="json"))
    settings = Settings("counted", "127.0.0.1", 0, 0, drain_s=0.0, grace_s=0.0)
    sys.exit(asyncio.run(supervise(settings, reference(main), {})))
