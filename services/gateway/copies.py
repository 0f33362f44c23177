"""The copies of calls that one shadow was sent, and how many of them there may be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["Copies"]


class Copies:
    """They outlive the calls that they were copied from, and route tables.

    So many are under way at a time as the shadow says, so many more wait for their turn, first come, first served.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def start(self, copy: Coroutine[Any, Any, None], name: str) -> None:
        """Begin a copy; it runs when the call that it is made from first waits."""
        task = asyncio.create_task(copy, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @asynccontextmanager
    async def turn(self, most: int) -> AsyncIterator[None]:
        """Hold one of `most` places, waiting for it."""
        if self._under_way >= most or self._waiting:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():  # it was given away in the same moment
                    self._leave()
                else:
                    self._waiting.remove(place)
                raise
        else:
            self._under_way += 1
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        """Give the place to who waits longest."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._under_way -= 1

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(self._tasks)
