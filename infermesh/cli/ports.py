"""Free ports of this machine."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

from infermesh.cli.failure import Failure

__all__ = ["HOST", "free_port", "is_free"]

HOST = "127.0.0.1"

# Below what Linux and macOS give to outgoing connections, so that none of those takes the port before its service listens;
# and with 10000 added still below 55535, as a Valkey cluster needs for its bus.
LOWEST, HIGHEST = 20_000, 32_000
TRIES = 200

_draw = random.SystemRandom().randint  # a program that seeds `random` would else look for the same ports every time


def is_free(port: int, host: str = HOST) -> bool:
    """Whether the port can be listened on now; a connection that is still being closed does not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(draw: Callable[[int, int], int] = _draw, host: str = HOST) -> int:
    """A port that nobody listens on. Nothing keeps it: who loses the race for it must ask again."""
    for _ in range(TRIES):
        port = draw(LOWEST, HIGHEST)
        if is_free(port, host):
            return port
    raise Failure(f"no free port was found between {LOWEST} and {HIGHEST} in {TRIES} tries")
