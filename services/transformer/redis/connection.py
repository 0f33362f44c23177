"""One connection to a server of Redis' protocol."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

from services.transformer.redis.errors import RedisReplyError
from services.transformer.redis.request import KEYS_PER_COMMAND, Request

__all__ = ["Connection"]

NOT_YET = object()  # False, hiredis' own word for it, is also a reply
Push = hiredis.PushNotification


class Connection(asyncio.Protocol):
    """Sends what is asked in one write for each turn of the loop, and gives replies in the order of the requests.

    `lost` is told once, with the requests that were not answered; `pushed` what a server says unasked.
    """

    def __init__(
        self,
        *,
        lost: Callable[[Connection, list[Request]], None] = lambda connection, requests: None,
        pushed: Callable[[list[Any]], None] = lambda push: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lost = lost
        self.pushed = pushed
        self._clock = clock
        self._reader = hiredis.Reader(notEnoughData=NOT_YET, replyError=RedisReplyError)
        self._waiting: deque[Request] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._since = 0.0  # when something came last, or was asked after a time without questions
        self.load = 0
        """Of what is under way."""

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def is_behind_much(self, request: Request) -> bool:
        """Whether a request waits for much that was sent before it, by one caller or by many."""
        before = 0
        for each in self._waiting:
            if each is request:
                return before > KEYS_PER_COMMAND
            before += each.weight
        return False

    def silent_s(self) -> float:
        """For how long nothing has come though something was asked."""
        return self._clock() - self._since if self._waiting else 0.0

    def send(self, request: Request) -> None:
        """Ask; the request is told its end."""
        if not self._waiting:
            self._since = self._clock()
        self._waiting.append(request)
        request.sends += 1
        self.load += request.weight
        out = self._out
        if not out:
            asyncio.get_running_loop().call_soon(self._flush)
        out.append(request.packed)

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        self._since = self._clock()
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not NOT_YET:
                if type(reply) is Push:
                    self.pushed(reply)
                    continue
                request = waiting[0]
                replies = request.replies
                replies.append(reply)
                if len(replies) == request.count:
                    waiting.popleft()
                    self.load -= request.weight
                    request.finished()
        except (hiredis.HiredisError, IndexError):  # no protocol of Redis, or a reply that nobody asked for
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._out.clear()
        left = list(self._waiting)
        self._waiting.clear()
        self.load = 0
        for request in left:
            request.replies.clear()
        self.lost(self, left)

    def _flush(self) -> None:
        out = self._out
        if self._transport is not None and out:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
