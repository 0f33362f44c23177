"""What is under way to a server: commands in one piece, their replies, and who waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from hiredis import pack_command

from services.transformer.redis.errors import Unanswered

__all__ = ["Command", "Request", "commands", "mget"]

KEYS_PER_COMMAND = 1000  # a server does one command at a time: a longer one holds up the lookups of everybody else
FIELDS_PER_KEY = 8  # so many fields of a hash take the memory of a packed row, and in Redis no less time

Command = Sequence[bytes]

_packed: Callable[[tuple[bytes, ...]], bytes] = pack_command  # type: ignore[assignment]  # typed there for tuples of one


class Request:
    """Commands that go out in one write. They are reads: when a connection is lost they are sent once more.

    Nobody needs to wait: a caller that leaves, or comes to the end of its time, leaves the place of its replies in the order of
    the connection, where they are thrown away.
    """

    __slots__ = (
        "count",
        "error",
        "is_done",
        "is_mget",
        "items",
        "packed",
        "replies",
        "sends",
        "then",
        "waiters",
        "weight",
    )

    def __init__(
        self, items: Sequence[Any], packed: bytes, count: int, *, is_mget: bool = False, weight: int = 0
    ) -> None:
        self.items = items
        """What is asked for: keys, or whole commands."""
        self.packed = packed
        self.count = count
        self.weight = weight or len(items)
        """How many keys are as much work."""
        self.is_mget = is_mget
        self.replies: list[Any] = []
        self.waiters: list[asyncio.Future[None]] = []
        self.then: Callable[[Request], None] | None = None
        """Told when it ends, in the order of what comes from the connection and before anybody who waits."""
        self.sends = 0
        self.is_done = False
        self.error: Unanswered | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for it still."""
        return any(not waiter.done() for waiter in self.waiters)

    def answers(self) -> list[Any]:
        """One for each item; an error that a server replied to one of several commands stands for all that it was asked."""
        if not self.is_mget:
            return self.replies
        if self.count == 1 and type(self.replies[0]) is list:
            return self.replies[0]
        found: list[Any] = []
        for at, reply in enumerate(self.replies):
            asked = min(KEYS_PER_COMMAND, self.weight - at * KEYS_PER_COMMAND)
            found += reply if type(reply) is list else [reply] * asked
        return found

    def finished(self) -> None:
        """All replies are there."""
        self.is_done = True
        if self.then is not None:
            self.then(self)
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def failed(self, error: Unanswered) -> None:
        """There will be no replies."""
        self.is_done, self.error = True, error
        if self.then is not None:
            self.then(self)
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)


def mget(keys: Sequence[bytes]) -> Request:
    """The values of keys, by as few commands as hold nobody else up."""
    if len(keys) == 1:  # as most lookups have it: half of what packing any command costs
        return Request(keys, b"*2\r\n$4\r\nMGET\r\n$%d\r\n%b\r\n" % (len(keys[0]), keys[0]), 1, is_mget=True)
    if len(keys) <= KEYS_PER_COMMAND:
        return Request(keys, _packed((b"MGET", *keys)), 1, is_mget=True)
    starts = range(0, len(keys), KEYS_PER_COMMAND)
    packed = b"".join([_packed((b"MGET", *keys[at : at + KEYS_PER_COMMAND])) for at in starts])
    return Request(keys, packed, len(starts), is_mget=True)


def commands(given: Sequence[Command]) -> Request:
    """Commands as they are; each must be hashable."""
    packed = b"".join([_packed_command(tuple(each)) for each in given])
    return Request(given, packed, len(given), weight=sum([_weight(each) for each in given]))


def _weight(words: Command) -> int:
    """What stands behind a command's name and key are fields of a row, as a rule."""
    return (len(words) + FIELDS_PER_KEY - 3) // FIELDS_PER_KEY or 1


def _packed_command(words: tuple[bytes, ...]) -> bytes:
    """A row that is a hash is asked for its fields by name, always the same ones: packing 50 of them costs 10 µs."""
    if len(words) < 3 or words[0] != b"HMGET":
        return _packed(words)
    key = words[1]
    return b"*%d\r\n$5\r\nHMGET\r\n$%d\r\n%b\r\n%b" % (len(words), len(key), key, _packed_fields(words[2:]))


@lru_cache(maxsize=64)  # views of which some features are taken; past it they are packed anew
def _packed_fields(names: tuple[bytes, ...]) -> bytes:
    return b"".join([b"$%d\r\n%b\r\n" % (len(name), name) for name in names])
