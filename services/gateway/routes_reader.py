"""Reads a large route file in a process of its own: parsing holds Python's lock, and calls would wait for it.

python -m services.gateway.routes_reader FILE   (the names of the backends come by standard input, a JSON list)
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from infermesh.config import ConfigError
from services.gateway.routes import ReadinessConfig, RouteConfig, RoutesFile, read_routes

__all__ = ["PickledRoutes", "read_routes_apart"]

APART_BYTES = 16 * 1024  # a smaller file takes some milliseconds, a process several hundred
TIMEOUT_S = 120.0
AT_ONCE = 4  # routes that are unpickled together
NICE = 10  # calls come first


@dataclass(frozen=True)
class PickledRoutes:
    """Routes that another process has checked; to check them again would take as long as to read them.

    `routes` makes them one by one as they are asked for, so that who compiles a large table can let calls pass in between.
    """

    readiness: ReadinessConfig
    parts: list[bytes]

    @property
    def routes(self) -> Iterator[RouteConfig]:
        return (route for part in self.parts for route in pickle.loads(part))


def read_routes_apart(file: Path, backends: Collection[str]) -> RoutesFile | PickledRoutes:
    """As `read_routes`; blocks, so it is for a thread. Raises ConfigError, also when the process fails."""
    try:
        large = file.stat().st_size > APART_BYTES
    except OSError:
        large = False  # `read_routes` says what is wrong
    if not large:
        return read_routes(file, backends)
    command = [sys.executable, "-m", "services.gateway.routes_reader", str(file)]
    try:
        done = subprocess.run(
            command, input=json.dumps(sorted(backends)).encode(), capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(str(file), [f"could not be read: {error}"]) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
        raise ConfigError(str(file), [f"could not be read: its reader ended with status {done.returncode}: {said[0]}"])
    faults, readiness, parts = pickle.loads(done.stdout)  # our own process wrote it
    if faults:
        raise ConfigError(str(file), faults)
    return PickledRoutes(readiness, parts)


def _main(file: str) -> None:
    os.nice(NICE)
    backends = json.load(sys.stdin)
    try:
        read = read_routes(Path(file), backends)
    except ConfigError as error:
        sys.stdout.buffer.write(pickle.dumps((error.faults, None, [])))
        return
    parts = [pickle.dumps(read.routes[at : at + AT_ONCE]) for at in range(0, len(read.routes), AT_ONCE)]
    sys.stdout.buffer.write(pickle.dumps(([], read.readiness, parts)))


if __name__ == "__main__":
    _main(sys.argv[1])
