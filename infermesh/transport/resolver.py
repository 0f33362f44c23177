"""The addresses behind a target: a list of the configuration, or what DNS says now."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Protocol

__all__ = ["MAX_ADDRESSES", "Dns", "Fixed", "Resolver", "resolver_of"]

MAX_ADDRESSES = 256  # of one backend; each has a connection of its own


class Resolver(Protocol):
    """Says at which addresses (`127.0.0.1:8001`, `[::1]:8001`) a backend is."""

    changes: bool
    """Whether it is worth asking again."""

    async def resolve(self) -> list[str]:
        """The addresses, sorted, each once. Raises OSError when nothing can be said; never answers with none."""
        ...


class Fixed:
    """Addresses that stand in the configuration."""

    changes = False

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = sorted(dict.fromkeys(addresses))

    async def resolve(self) -> list[str]:
        return self.addresses


class Dns:
    """The addresses of a name, by the system's resolver (`/etc/hosts`, then DNS), which runs in a thread of the loop's.

    One look-up runs at a time: that thread can't be interrupted, so a name server that hangs holds one thread and no more. A
    look-up that takes longer than `timeout_s` counts as failed; what it finds later is taken by the next one.
    """

    changes = True

    def __init__(self, host: str, port: int, timeout_s: float = 5.0) -> None:
        self.host = host
        self._port = port
        self._timeout_s = timeout_s
        self._asking: asyncio.Future[list[tuple[object, ...]]] | None = None

    async def resolve(self) -> list[str]:
        if self._asking is None:
            look_up = asyncio.get_running_loop().getaddrinfo(self.host, self._port, type=socket.SOCK_STREAM)
            self._asking = asyncio.ensure_future(look_up)  # type: ignore[arg-type]  # the tuples' parts are not of interest
        done, _ = await asyncio.wait({self._asking}, timeout=self._timeout_s)
        if not done:
            raise OSError(f"no answer within {self._timeout_s:g} s")
        asked, self._asking = self._asking, None
        found = sorted({_written(entry[4]) for entry in asked.result()})
        if not found:
            raise OSError("the name has no address")
        return found[:MAX_ADDRESSES]


def resolver_of(target: str | list[str]) -> Resolver:
    """What finds the addresses of a backend's `target`: `host:port`, or a list of addresses."""
    if not isinstance(target, str):
        return Fixed(target)
    host, _, port = target.rpartition(":")
    if is_address(host):
        return Fixed([target])
    return Dns(host, int(port))


def is_address(host: str) -> bool:
    """Whether it is an IP address, and no name that could be looked up."""
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _written(address: object) -> str:
    assert isinstance(address, tuple)
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
