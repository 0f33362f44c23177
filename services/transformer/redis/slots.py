"""Which node of a cluster has a key (redis.io, "Redis cluster specification")."""

from __future__ import annotations

from binascii import crc_hqx
from typing import Any, NamedTuple

from services.transformer.redis.url import Place

__all__ = ["SLOTS", "Owners", "slot_of", "slots_read"]

SLOTS = 16384


class Owners(NamedTuple):
    """Who has a slot: the primary, and its replicas."""

    primary: Place
    replicas: tuple[Place, ...] = ()


def slot_of(key: bytes) -> int:
    """CRC16 (XMODEM) of the key, or of what stands within its first pair of braces if that is not empty."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def slots_read(reply: list[Any], asked: Place) -> list[Owners | None]:
    """The owners of all slots from a reply to CLUSTER SLOTS; None for a slot that nobody has.

    A node that does not know its own host leaves it out; it is then the host that was asked.
    """
    owners: list[Owners | None] = [None] * SLOTS
    for first, last, *nodes in reply:
        places = []
        for host, port, *_ in nodes:
            named = (host or b"").decode()
            places.append((asked[0] if named in ("", "?") else named, int(port)))
        each = Owners(places[0], tuple(places[1:]))
        owners[first : last + 1] = [each] * (last + 1 - first)
    return owners
