"""Why there are no replies, and replies that are errors.

Unanswered
├── Late          no answer in time
├── Lost          no connection, or it was lost
├── Away          nobody was asked: a breaker is open
├── Overloaded    nobody was asked: too much is under way
└── Unfit         the server answers, but can serve nobody now
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Self

__all__ = ["OF_KEYS", "Away", "Late", "Lost", "Overloaded", "RedisReplyError", "Unanswered", "Unfit", "explained"]

# By the first word of an error reply: what a server says whose state, not whose key, is the matter.
UNFIT = {
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "READONLY": "it is a replica and was asked to write",
    "NOAUTH": "it wants a password, and none is set",
    "WRONGPASS": "it refuses user and password",
    "NOPERM": "its user may not do this",
    "OOM": "it has no memory left",
    "BUSY": "a script holds it up",
    "CLUSTERDOWN": "slots of the cluster have no server",
    "MISCONF": "it can't save its data",
    "NOREPLICAS": "it has too few replicas",
}

OF_KEYS = {"NOPERM"}
"""Those that are said of keys after all: other lookups on the same connection are served."""


class RedisReplyError(Exception):
    """An error that a server replied. It may quote what was sent: it belongs in a log, and not in an answer."""

    @property
    def code(self) -> str:
        """Its first word, by convention the kind: `WRONGTYPE`, `MOVED`."""
        return str(self).partition(" ")[0]


class Unanswered(Exception):
    """There are not all replies; the text says why."""

    found: Mapping[Hashable, Any] = {}  # one for all: it is never changed
    """Those that there are, by what was asked for: keys, or whole commands."""

    def beside(self, found: Mapping[Hashable, Any]) -> Self:
        """The same with the replies that others gave: one error may be told to several callers, each of whom has others."""
        same = type(self).__new__(type(self), *self.args)
        same.__dict__.update(self.__dict__)
        same.found = found
        return same


class Late(Unanswered):
    """No answer in time."""

    def __init__(self, *, stalled: bool = False) -> None:
        super().__init__("no answer in time")
        self.stalled = stalled
        """This process was busy elsewhere: the time says nothing about the server."""


class Lost(Unanswered):
    """There is no connection, or it was lost twice."""


class Away(Unanswered):
    """It was not asked, since it has not answered lately."""


class Overloaded(Unanswered):
    """It was not asked, since as much is under way as may be."""


class Unfit(Unanswered):
    """The server says that it can serve nobody now."""


def explained(error: RedisReplyError) -> str:
    """The reply in words of ours, without anything that was sent."""
    code = error.code
    if code == "ERR" and "password" in str(error).lower():  # before Redis 6
        code = "WRONGPASS"
    known = UNFIT.get(code)
    return f"{known} ({code})" if known else f"it replies with an error ({code[:32]})"
