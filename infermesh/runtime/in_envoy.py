"""The engine `envoy`: a supervisor in this process, and the service in each of the Envoy processes that it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import generate_latest

from infermesh.config import ConfigError, load
from infermesh.engine.worker import ProgramFailed, Worker, reference, resolve
from infermesh.garbage import settle_garbage
from infermesh.memory import keep_freed_memory
from infermesh.runtime.exits import EXIT_CONFIG
from infermesh.runtime.life import Build, C, Telemetry, Told, serve_until
from infermesh.telemetry import Metrics, Tracing, set_up_logs
from infermesh.transport import Server

__all__ = ["in_envoy", "supervised"]


def supervised(
    name: str,
    kind: type[C],
    config: C,
    build: Build[C] | str,
    file: Path | None,
    *,
    inside_mesh: bool,
    tools: Sequence[str],
) -> int:
    """Keep Envoy processes that run `in_envoy`, until SIGTERM or SIGINT."""
    # Not at the top: a service on the other engine does without.
    from infermesh.engine.settings import Settings
    from infermesh.engine.supervisor import supervise

    server = config.server
    settings = Settings.of(
        name,
        server,
        config.telemetry,
        processes=server.processes,
        max_connections=server.max_connections,
        access_log=server.access_log,
    )
    order = {
        "name": name,
        "kind": reference(kind),
        "build": build if isinstance(build, str) else reference(build),
        "config": None if file is None else str(file.resolve()),
        "inside_mesh": inside_mesh,
        "tools": [*tools],
    }
    main = reference(in_envoy)
    return asyncio.run(supervise(settings, main, order, tls=server.tls))


async def in_envoy(worker: Worker) -> None:
    """The program of a worker: the service, as `run` was told of it by another process."""
    from infermesh.transport.asgi import Application

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
    finally:
        await server.stop(0)
        await asyncio.to_thread(tracing.close)
