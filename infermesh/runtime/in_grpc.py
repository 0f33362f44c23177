"""The engine `grpcio`: the service in this process, from its start to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence

from infermesh.garbage import settle_garbage
from infermesh.memory import keep_freed_memory
from infermesh.runtime.life import Build, C, Telemetry, Told, serve_until
from infermesh.telemetry import Metrics, TelemetryServer, Tracing
from infermesh.transport import Server

__all__ = ["in_grpc", "serve"]

_log = logging.getLogger("infermesh.runtime")


def in_grpc(name: str, config: C, build: Build[C], *, inside_mesh: bool, tools: Sequence[str]) -> None:
    """Serve on a loop of its own until SIGTERM or SIGINT."""
    keep_freed_memory()
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: asyncio's own loop serves too, about 15 % dearer a call
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    runner.run(serve(name, config, build, inside_mesh=inside_mesh, when_built=settle_garbage, tools=tools))


async def serve(
    name: str,
    config: C,
    build: Build[C],
    *,
    inside_mesh: bool = True,
    stop: asyncio.Event | None = None,
    when_built: Callable[[], None] = lambda: None,
    tools: Sequence[str] = (),
) -> None:
    """Serve until a signal comes (or `stop` is set), then drain. Raises what `build` raises, and PortTaken.

    `when_built` is called once, when the service is built and before it is ready: what a process of its own does to itself then.

    It listens before the service is built: health answers NOT_SERVING meanwhile. On the signal: health NOT_SERVING → `drain`
    → no new calls, finish within `grace` → close what `build` opened → flush telemetry. A second signal exits at once.
    """
    stop = stop or asyncio.Event()
    _on_signals(stop)
    metrics, tracing = Metrics(name), Tracing(name, config.telemetry)
    observe_tls = metrics.certificates("server")
    server = Server(
        name, config.server, inside_mesh=inside_mesh, refused=metrics.refused, observe_tls=observe_tls, tools=tools
    )
    telemetry_server = TelemetryServer(
        config.server.host, config.server.http_port, metrics.registry, lambda: server.is_ready
    )
    try:
        await server.start()
        _log.info("listening", extra={"grpc_port": server.port, "http_port": telemetry_server.port, "pid": os.getpid()})
        told = Told.by_itself(stop, config.server.drain)
        await serve_until(told, config, build, Telemetry(metrics, tracing), server, when_built)
        _log.info("stopped")
    finally:
        await server.stop(0)
        telemetry_server.close()  # these two block the loop, on which nothing is left to do
        tracing.close()


def _on_signals(stop: asyncio.Event) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # a test that serves in a thread stops by its event
    loop = asyncio.get_running_loop()

    def arrived(number: int) -> None:
        if stop.is_set():
            _log.warning("second signal: exiting at once")
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, arrived, number)
