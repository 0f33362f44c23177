"""Requests that wait for an instance of one model version, in order."""

from __future__ import annotations

from collections import OrderedDict

from infermesh.errors import DeadlineExceeded
from services.predictor.scheduling.request import Request

__all__ = ["Queue"]


class Queue:
    """One line for each level: first in, first out, level 0 before all others.

    Adding and removing take the same time however many wait and wherever they stand, and what is removed leaves nothing
    behind, also while a model hangs. `what` names the version in errors.
    """

    def __init__(self, what: str, levels: int) -> None:
        self.waiting = 0
        self._what = what
        self._lines: tuple[OrderedDict[Request, None], ...] = tuple(OrderedDict() for _ in range(levels))
        self._rows = [0] * levels
        self._bytes = [0] * levels

    def add(self, request: Request) -> None:
        """Behind all of its level."""
        level = request.level
        self._lines[level][request] = None
        self._rows[level] += request.rows
        self._bytes[level] += request.size_bytes
        self.waiting += 1

    def remove(self, request: Request) -> None:
        """Take one out, if it is in it."""
        level = request.level
        line = self._lines[level]
        if request in line:
            del line[request]
            self._rows[level] -= request.rows
            self._bytes[level] -= request.size_bytes
            self.waiting -= 1

    def first(self) -> Request | None:
        """The one that is to start next; those before it that were cancelled or have expired are taken out and told so."""
        for line in self._lines:
            while line:
                request = next(iter(line))
                if request.answer.done():
                    self.remove(request)
                elif request.deadline.expired:
                    self.remove(request)
                    request.answer.set_exception(
                        DeadlineExceeded(
                            f"{self._what}: the deadline passed in its queue", rejected=not request.follows
                        )
                    )
                else:
                    return request
        return None

    def youngest_below(self, level: int) -> Request | None:
        """The last of the lowest level that anybody waits in, if that is lower than `level`: the first that has to give way. Who
        waits with a later slice does not: a part of the work is done."""
        for lower in range(len(self._lines) - 1, level, -1):
            for request in reversed(self._lines[lower]):
                if not request.follows:
                    return request
        return None

    def ahead(self, level: int) -> tuple[int, int, int]:
        """Requests, rows and input bytes that start before one that comes now at this level."""
        upto = level + 1
        return sum(map(len, self._lines[:upto])), sum(self._rows[:upto]), sum(self._bytes[:upto])

    def clear(self) -> list[Request]:
        """Take all out, in order."""
        requests = [request for line in self._lines for request in line]
        for request in requests:
            self.remove(request)
        return requests
