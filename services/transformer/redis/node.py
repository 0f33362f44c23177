"""One server: its few connections, and whether it is to be asked at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from services.transformer.breaker import Breaker
from services.transformer.redis.deadlines import Deadlines
from services.transformer.redis.errors import (
    OF_KEYS,
    UNFIT,
    Away,
    Late,
    Lost,
    Overloaded,
    RedisReplyError,
    Unanswered,
    Unfit,
    explained,
)
from services.transformer.redis.lane import Lane, Open
from services.transformer.redis.request import KEYS_PER_COMMAND, Request, commands
from services.transformer.redis.settings import RedisConfig

__all__ = ["SHARED", "Node", "Wait"]

SHARED = (
    64  # keys under way on a connection before the next one is taken: one write for many costs less than many writes
)
SILENT_TIMEOUTS = 5
SILENT_S = 1.0  # at least: a server that one command holds up is not found sooner by another connection
MAX_BYTES = 32 * 2**20  # of one request


class Wait:
    """One caller's waiting for a request."""

    __slots__ = ("moment", "request", "waiter")

    def __init__(self, request: Request, waiter: asyncio.Future[None] | None, moment: set[Any] | None) -> None:
        self.request = request
        self.waiter = waiter
        self.moment = moment

    def leave(self) -> None:
        """Wait no longer."""
        if self.waiter is not None:
            self.waiter.cancel()
            assert self.moment is not None
            self.moment.discard(self.waiter)


class Node:
    """Sends requests on the connection that has least to do, and counts what speaks against the server.

    A caller in a hurry, one that asks for much, and a time in which this process was busy say nothing about the server: else
    one caller could open the breaker for all. `failed` is told what does, with the reason.
    """

    def __init__(
        self,
        config: RedisConfig,
        open_: Open,
        deadlines: Deadlines,
        *,
        tell_lost: Callable[[], None] = lambda: None,
        tell_made: Callable[[], None] = lambda: None,
        pushed: Callable[[list[Any]], None] = lambda push: None,
        failed: Callable[[str], None] = lambda why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._deadlines = deadlines
        self._tell_failed = failed
        self._tell_lost = tell_lost
        self.lanes = [
            Lane(
                open_,
                config.connect_timeout,
                tell_lost=tell_lost,
                tell_made=tell_made,
                pushed=pushed,
                clock=clock,
            )
            for _ in range(config.connections)
        ]
        self._first = self.lanes[0]
        self.breaker = Breaker(config.failures)
        self._lane_most = config.max_in_flight // config.connections  # the others have no less to do
        # So few keys fit beside less than SHARED, in whatever bound there is; an id is short enough for MAX_BYTES then.
        self._small_weight = min(SHARED, self._lane_most - SHARED + 1)
        self._silent_s = max(SILENT_S, SILENT_TIMEOUTS * config.timeout)

    @property
    def is_away(self) -> bool:
        return self.breaker.is_open

    def send(self, request: Request) -> None:
        """Ask. Raises Away, Overloaded or Lost."""
        if self.breaker.is_open:
            raise Away("Redis is away")
        first = self._first
        connection = first.connection
        is_free = connection is not None and connection.load < SHARED
        if connection is not None and is_free and request.weight < self._small_weight:
            connection.send(request)  # as nearly all are: past nothing that could refuse them
            return
        lane = first if is_free else self._least_loaded()
        if lane.load and lane.load + request.weight > self._lane_most:
            raise Overloaded("Redis is asked for too much already")
        if len(request.packed) > MAX_BYTES:
            raise Overloaded(f"more than {MAX_BYTES} bytes of keys")
        try:
            lane.send(request)
        except Lost as error:
            self._failed(str(error))
            raise
        if request.weight >= SHARED:
            self._make_more()  # so that who comes meanwhile need not wait behind it

    def attach(self, request: Request, budget_s: float) -> Wait:
        """Begin to wait for a request, one's own or somebody else's."""
        if request.is_done:
            return Wait(request, None, None)
        waiter = asyncio.get_running_loop().create_future()
        request.waiters.append(waiter)
        return Wait(request, waiter, self._deadlines.add(waiter, budget_s))

    async def answered(self, request: Request, budget_s: float, *, counts: bool = True) -> None:
        """Wait for a request of one's own, from now on and with nothing else to do meanwhile: `attach` and `finish` in one."""
        waiter = asyncio.get_running_loop().create_future()
        request.waiters.append(waiter)
        moment = self._deadlines.add(waiter, budget_s)
        try:
            await waiter
        except Unanswered as error:
            self._unanswered(error, request, counts=counts)
            raise
        finally:
            moment.discard(waiter)
        self._check(request)

    async def finish(self, wait: Wait, *, counts: bool = True) -> Request:
        """Wait for the end of a request. Raises Unanswered; `counts`: no answer in time speaks against the server."""
        request = wait.request
        try:
            if wait.waiter is not None:
                await wait.waiter
            elif request.error is not None:
                raise request.error
        except Unanswered as error:
            self._unanswered(error, request, counts=counts)
            raise
        finally:
            if wait.moment is not None:
                wait.moment.discard(wait.waiter)
        self._check(request)
        return request

    async def probe(self, timeout_s: float) -> bool:
        """Whether every connection that there is answers in time, and one at least can be made; the breaker follows."""
        lanes = [lane for lane in self.lanes if lane.connection is not None] or [self._first]
        waits = []
        try:
            for lane in lanes:
                request = commands([(b"PING",)])
                lane.send(request, urgent=True)
                waits.append(self.attach(request, timeout_s))
            for wait in waits:
                await self.finish(wait)
        except Unanswered as error:
            self._tell_lost()  # whoever does not answer does not tell of changes either
            if isinstance(error, Lost) and not waits:
                self._failed(str(error))
            return False
        finally:
            for wait in waits:
                wait.leave()
        return True

    async def close(self) -> None:
        for lane in self.lanes:
            await lane.close()

    def _check(self, request: Request) -> None:
        """What is said of the server by replies that are there. Raises Unfit."""
        for reply in request.replies:
            if type(reply) is RedisReplyError and (request.is_mget or reply.code in UNFIT):
                why = explained(reply)
                if reply.code in UNFIT and reply.code not in OF_KEYS:
                    self._failed(why)
                raise Unfit(why)
        self.breaker.succeeded()

    def _unanswered(self, error: Unanswered, request: Request, *, counts: bool) -> None:
        """What is said of it by replies that are not."""
        if not isinstance(error, Late):
            self._failed(str(error))
            return
        if error.stalled:
            return
        for lane in self.lanes:
            lane.hang_up_if_silent(self._silent_s)
        if counts and request.weight <= KEYS_PER_COMMAND and not self._is_busy(request):
            self._failed("no answer in time")

    def _least_loaded(self) -> Lane:
        made = [lane for lane in self.lanes if lane.connection is not None]
        if not made:
            return self._first
        self._make_more()
        return min(made, key=lambda lane: lane.load // SHARED)

    def _make_more(self) -> None:
        for lane in self.lanes:
            if lane.can_be_made:
                lane.make()

    def _is_busy(self, request: Request) -> bool:
        """Whether much is before this request: then it waits for that, and the server is well."""
        return any(lane.connection is not None and lane.connection.is_behind_much(request) for lane in self.lanes)

    def _failed(self, why: str) -> None:
        self.breaker.failed()
        self._tell_failed(why)
