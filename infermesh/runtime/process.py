"""The main function of a service: its configuration, its engine, its exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import infermesh
from infermesh.config import ConfigError, load
from infermesh.engine.worker import resolve
from infermesh.runtime.exits import EXIT_CONFIG, leave, line, status_of
from infermesh.telemetry import set_up_logs

if TYPE_CHECKING:  # imported where the service runs: a supervisor starts without gRPC
    from infermesh.runtime.life import Build, C

__all__ = ["run"]


def run(
    name: str, kind: type[C], build: Build[C] | str, *, inside_mesh: bool = True, tools: Sequence[str] = ()
) -> None:
    """The main function of a service: read the configuration, serve until SIGTERM or SIGINT, exit.

    `build` may be `module:name` of the function, which is imported where the service runs: not by a supervisor.
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
        sys.exit(line(str(error), EXIT_CONFIG))
    set_up_logs(name, config.telemetry)

    def served() -> int | None:
        # Not at the top: each engine does without what the other one needs.
        if config.server.engine == "envoy":
            from infermesh.runtime.supervised import supervised

            return supervised(name, kind, config, build, arguments.config, inside_mesh=inside_mesh, tools=tools)
        from infermesh.runtime.in_grpc import in_grpc

        in_grpc(name, config, resolve(build) if isinstance(build, str) else build, inside_mesh=inside_mesh, tools=tools)
        return None

    leave(status_of(name, served))
