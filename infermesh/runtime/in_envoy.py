"""The engine `envoy`: the service in an Envoy process that a supervisor keeps."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from prometheus_client import generate_latest

from infermesh.config import ConfigError, load
from infermesh.engine.worker import ProgramFailed, Worker, resolve
from infermesh.garbage import settle_garbage
from infermesh.memory import keep_freed_memory
from infermesh.runtime.exits import EXIT_CONFIG, EXIT_FAILED
from infermesh.runtime.life import Telemetry, Told, serve_until
from infermesh.telemetry import Metrics, Tracing, set_up_logs
from infermesh.transport import Server
from infermesh.transport.asgi import Application

__all__ = ["in_envoy"]

_log = logging.getLogger("infermesh.runtime")


async def in_envoy(worker: Worker) -> None:
    """The program of a worker: the service, as `run` was told of it by another process."""
    order = worker.order
    name, kind, build = order["name"], resolve(order["kind"]), resolve(order["build"])
    try:
        config = load(kind, None if order["config"] is None else Path(order["config"]))
    except ConfigError as error:  # it may have changed since the supervisor read it
        raise ProgramFailed(str(error), EXIT_CONFIG) from None
    set_up_logs(name, config.telemetry)
    keep_freed_memory()
    metrics, tracing = Metrics(name), Tracing(name, config.telemetry)
    mutual = config.server.tls is not None and config.server.tls.client_ca is not None
    most = config.server.max_message
    carrier = Application(max_receive=most, max_send=most, trusts_certificates=mutual)
    server = Server(
        name,
        config.server,
        inside_mesh=order["inside_mesh"],
        refused=metrics.refused,
        tools=order["tools"],
        carrier=carrier,
    )
    worker.is_ready, worker.in_flight = (lambda: server.is_ready), (lambda: server.in_flight)
    worker.metrics = lambda: generate_latest(metrics.registry)
    await server.start()
    worker.app = carrier
    told = Told(worker.draining, worker.leaving, worker.closing)
    try:
        await serve_until(told, config, build, Telemetry(metrics, tracing), server, settle_garbage)
    except ConfigError as error:
        raise ProgramFailed(f"{name}: {error}", EXIT_CONFIG) from None
    except Exception as error:
        text = f"{name} could not be started: {error}"
        _log.critical("%s", text, exc_info=error)
        raise ProgramFailed(text, EXIT_FAILED) from None
    finally:
        await server.stop(0)
        await asyncio.to_thread(tracing.close)
