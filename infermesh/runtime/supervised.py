"""The engine `envoy`, from outside: a supervisor in this process, which imports nothing that only calls need."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infermesh.engine.settings import Settings
from infermesh.engine.supervisor import supervise
from infermesh.engine.worker import reference

if TYPE_CHECKING:
    from infermesh.runtime.life import Build, C

__all__ = ["supervised"]

MAIN = "infermesh.runtime.in_envoy:in_envoy"


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
    """Keep Envoy processes that run the service, until SIGTERM or SIGINT; the exit status."""
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
    return asyncio.run(supervise(settings, MAIN, order, tls=server.tls))
