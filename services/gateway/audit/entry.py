"""What a line of the audit is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from infermesh.call import Caller
from infermesh.journal import Journal

__all__ = ["MAX_NAME", "Entry"]

MAX_NAME = 256  # characters of what callers and backends sent


class Entry(NamedTuple):
    """Put together on the call path, where it may cost next to nothing; holds no message and no metadata."""

    journal: Journal
    ended: float  # of the clock that the journal has
    wall: float  # when it ended, in seconds since 1970
    request_id: str
    trace: Mapping[str, str]
    caller: Caller
    peer: str
    model: str  # that was asked for, cut at MAX_NAME
    route: str
    answered: str  # model, version and variant that answered
    version: str
    variant: str
    fallback: str
    code: str
    reason: str
    hop: str
    request_bytes: int
    response_bytes: int
