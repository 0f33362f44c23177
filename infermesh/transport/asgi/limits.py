"""What holds for every call of a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from infermesh.transport.asgi.identity import Identities

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for every call."""

    receive_bytes: int
    send_bytes: int
    identities: Identities
    clock: Callable[[], float]
