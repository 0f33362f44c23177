"""What is being read by somebody already is not read twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from services.transformer.redis.node import SHARED, Node, Wait
from services.transformer.redis.request import Request

__all__ = ["Flights"]

Pack = Callable[[Any], Request]


class Flights:
    """The reads that are under way, by what is asked for: keys, or whole commands.

    Who asks for the same meanwhile waits for the same reply, which is thus as old as the round trip at most; of a read that is
    `joinable_s` old it is not, since that one may hang, nor of a large one, whose reply is long in coming. Who leaves takes
    nobody along.
    """

    def __init__(
        self,
        joinable_s: float,
        *,
        tell: Callable[[Request], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._joinable_s = joinable_s
        self._tell = tell
        self._clock = clock
        self._flying: dict[Hashable, tuple[Request, float]] = {}
        self._then = self._landed

    def __len__(self) -> int:
        return len(self._flying)

    async def read(
        self, node: Node, items: Sequence[Hashable], pack: Pack, budget_s: float, *, counts: bool = True
    ) -> list[Any]:
        """The answers, one for each item. Raises Unanswered."""
        flying = self._flying
        if len(items) == 1:  # the usual lookup: no sets for one key
            if items[0] in flying:
                return await self._joined(node, items, pack, budget_s, counts=counts)
        elif not items:
            return []
        elif flying and not flying.keys().isdisjoint(items):
            return await self._joined(node, items, pack, budget_s, counts=counts)
        request = self._sent(node, items, pack)
        await node.answered(request, budget_s, counts=counts)
        return request.answers()

    def start(self, node: Node, items: Sequence[Hashable], pack: Pack, budget_s: float) -> list[Wait]:
        """Begin to wait for requests that together have all items; some are other callers'. Raises Unanswered."""
        oldest = self._clock() - self._joinable_s
        own: list[Hashable] = []
        requests: dict[Request, None] = {}
        for item in items:
            flight = self._flying.get(item)
            if flight is None or flight[1] < oldest:
                own.append(item)
            else:
                requests[flight[0]] = None
        if own:
            requests[self._sent(node, own, pack)] = None
        return [node.attach(request, budget_s) for request in requests]

    def _sent(self, node: Node, items: Sequence[Hashable], pack: Pack) -> Request:
        request = pack(items)
        request.then = self._then
        node.send(request)
        if request.weight >= SHARED:
            return request
        if len(items) == 1:
            self._flying[items[0]] = (request, self._clock())
        else:
            self._flying.update(dict.fromkeys(items, (request, self._clock())))
        return request

    def _landed(self, request: Request) -> None:
        flying = self._flying
        for item in request.items if request.weight < SHARED else ():
            if (flight := flying.get(item)) is not None and flight[0] is request:
                del flying[item]
        if self._tell is not None and request.error is None:
            self._tell(request)

    async def _joined(
        self, node: Node, items: Sequence[Hashable], pack: Pack, budget_s: float, *, counts: bool
    ) -> list[Any]:
        waits = self.start(node, items, pack, budget_s)
        found: dict[Hashable, Any] = {}
        try:
            for wait in waits:
                request = await node.finish(wait, counts=counts)
                found.update(zip(request.items, request.answers(), strict=True))
        finally:
            for wait in waits:
                wait.leave()
        return [found[item] for item in items]
