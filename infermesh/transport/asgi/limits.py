"""What holds for every call of a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc

from infermesh.transport.asgi.identity import Identities
from infermesh.transport.asgi.wire import WireError

__all__ = ["Limits", "Unfinished"]

READ_WITHIN_S = 60.0  # the one request of a call: 64 MiB at 9 Mbit/s


@dataclass(slots=True)
class Unfinished:
    """Bytes of all requests that have not come whole, or that nobody has read yet.

    Each alone may be as long as a message; a thousand streams that all but end would hold a thousand messages.
    """

    most: int
    held: int = 0

    def take(self, count: int) -> None:
        """So many more. Raises WireError when they are too many; they are held all the same, until they are `let_go`."""
        self.held += count
        if self.held > self.most:
            text = f"requests that have not come whole hold more than {self.most} bytes; try again"
            raise WireError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)

    def let_go(self, count: int) -> None:
        self.held -= count


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for every call."""

    receive_bytes: int
    send_bytes: int
    identities: Identities
    clock: Callable[[], float]
    unfinished: Unfinished
    read_within_s: float = READ_WITHIN_S
