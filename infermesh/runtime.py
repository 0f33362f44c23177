"""The life of a service's process: start, become ready, drain, stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import infermesh
from infermesh.config import ConfigError, PortTaken, ServiceConfig, load
from infermesh.filters import Measured
from infermesh.garbage import settle_garbage
from infermesh.memory import keep_freed_memory
from infermesh.service import Stack
from infermesh.telemetry import Metrics, TelemetryServer, Tracing, set_up_logs
from infermesh.telemetry.metrics import no_label
from infermesh.transport import Server

__all__ = ["Telemetry", "run", "serve"]

READY_CHECK_S = 0.5  # how soon health follows a service that becomes ready, or stops being so, while it runs
EXIT_CONFIG = 2
EXIT_PORT = 3
EXIT_FAILED = 1

C = TypeVar("C", bound=ServiceConfig)
_log = logging.getLogger("infermesh.runtime")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a `build()` is given to report with."""

    metrics: Metrics
    tracing: Tracing


Build = Callable[[C, Telemetry], AbstractAsyncContextManager[Stack]]


def run(name: str, kind: type[C], build: Build[C], *, inside_mesh: bool = True, tools: Sequence[str] = ()) -> None:
    """The main function of a service: read the configuration, serve until SIGTERM or SIGINT, exit.

    `tools` are the full names of RPCs beside OIP that the service may offer (`Stack.tools`).
    Exit status: 0 after a drain, 1 when the service could not be built, 2 for a bad configuration, 3 for a port that is taken.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{name}", description=f"The {name} of infermesh {infermesh.__version__}."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file; environment variables override it")
    arguments = parser.parse_args()
    try:
        config = load(kind, arguments.config)
    except ConfigError as error:
        sys.exit(_line(str(error), EXIT_CONFIG))
    set_up_logs(name, config.telemetry)
    keep_freed_memory()
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: asyncio's own loop serves too, about 15 % dearer a call
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    status = 0
    try:
        runner.run(serve(name, config, build, inside_mesh=inside_mesh, when_built=settle_garbage, tools=tools))
    except PortTaken as error:
        status = _line(f"{name}: {error}", EXIT_PORT)
    except ConfigError as error:  # files that only a service which starts needs, such as certificates
        status = _line(f"{name}: {error}", EXIT_CONFIG)
    except Exception as error:
        _log.critical("%s could not be started: %s", name, error, exc_info=error)
        status = EXIT_FAILED
    _exit(status)


def _exit(status: int) -> NoReturn:
    """Exit at once. All that is to be closed is closed by now, and a model that is still being loaded or run in a thread can't be
    interrupted: an ordinary exit would wait for it, past every grace."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
        serving = asyncio.ensure_future(
            _serve_built(config, build, Telemetry(metrics, tracing), server, stop, when_built)
        )
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not server.is_empty:
                await serving
        finally:  # also when told to stop while it was still starting
            stopping.cancel()
            serving.cancel()
            await asyncio.wait({serving})
        if not serving.cancelled():
            serving.result()
        _log.info("stopped")
    finally:
        await server.stop(0)
        telemetry_server.close()  # these two block the loop, on which nothing is left to do
        tracing.close()


async def _serve_built(
    config: C,
    build: Build[C],
    telemetry: Telemetry,
    server: Server,
    stop: asyncio.Event,
    when_built: Callable[[], None],
) -> None:
    async with build(config, telemetry) as service:
        _log.info("built: %r", service)
        telemetry.metrics.label = next((f.label for f in service.filters if isinstance(f, Measured)), no_label)
        server.mount(service)
        when_built()
        following = asyncio.ensure_future(_follow_readiness(service, server, telemetry.metrics))
        await stop.wait()
        following.cancel()
        await server.set_ready(False)
        telemetry.metrics.ready.set(0)
        _log.info("draining", extra={"in_flight": server.in_flight, "drain_s": config.server.drain})
        await asyncio.sleep(config.server.drain)
        await server.stop(config.server.grace)


async def _follow_readiness(service: Stack, server: Server, metrics: Metrics) -> None:
    was: bool | None = None
    while True:
        try:
            ready = await service.ready()
        except Exception as error:
            _log.error("readiness could not be told", exc_info=error)
            ready = False
        if ready is not was:
            await server.set_ready(ready)
            metrics.ready.set(ready)
            _log.info("ready" if ready else "not ready")
            was = ready
        await asyncio.sleep(READY_CHECK_S)


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


def _line(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status
