"""What one run of a batch is made for: all of its members, or after a failure some of them."""

from __future__ import annotations

import onnxruntime as ort

from services.predictor.scheduling.request import Request

__all__ = ["Part"]


class Part:
    """Some members of a batch, in order, and how to end their run. `began` is of `time.perf_counter`."""

    __slots__ = ("_left", "began", "members", "options", "size_bytes")

    def __init__(self, members: list[Request], began: float = 0.0) -> None:
        self.members = members
        self.began = began
        self.options = ort.RunOptions()
        self.size_bytes = 0
        for request in members:
            self.size_bytes += request.size_bytes
        self._left = 0  # so many of the first ones are done, at least: who is done stays so, and is looked at once

    def is_waited_for(self) -> bool:
        """Whether one of the members has not gone away. On the event loop."""
        members = self.members
        while self._left < len(members) and members[self._left].answer.done():
            self._left += 1
        return self._left < len(members)

    def pieces(self, *, singly: bool) -> list[Part]:
        """Two halves, or one part for each member."""
        size = 1 if singly else (len(self.members) + 1) // 2
        return [Part(self.members[at : at + size]) for at in range(0, len(self.members), size)]
