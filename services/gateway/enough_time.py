"""A call that comes too late is told so at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer
from services.gateway.recent_median import RecentMedian

__all__ = ["EnoughTime"]

OVERRUN = 1.25  # of a call that ended at its deadline: without it, calls with that very deadline would go on in vain


@dataclass(kw_only=True)
class EnoughTime(Filter):
    """Refuses a call that has less time left than half of the recent calls took: DEADLINE_EXCEEDED, reason NO_TIME, not started.

    It would most likely end at its deadline all the same, and take a place from one that can be answered in time. Answers count
    with the time that they took, and calls that ran out of time with a quarter more than they had: they would have taken longer,
    nobody knows how much. `probe_share` of the calls that would be refused go on, so that a variant that is fast again is found.
    """

    recent: RecentMedian
    enforce: bool = True
    probe_share: float = 0.05
    observe: Callable[[], None]  # of a call that has too little time
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        needs_s = self.recent.value
        if needs_s is not None and call.deadline.remaining() < needs_s and self.draw() >= self.probe_share:
            self.observe()
            if self.enforce:
                raise DeadlineExceeded(
                    f"model {quoted(request.model_name)}: {call.deadline.remaining() * 1000:.1f} ms are left, and half of the "
                    f"recent calls to {quoted(call.variant)} took more than {needs_s * 1000:.1f} ms",
                    reason="NO_TIME",
                    rejected=True,
                )
        started = self.clock()
        try:
            response = await then(request, call)
        except DeadlineExceeded as error:
            if not error.rejected:
                self.recent.add((self.clock() - started) * OVERRUN)
            raise
        self.recent.add(self.clock() - started)
        return response

    def __repr__(self) -> str:
        return "EnoughTime" if self.enforce else "EnoughTime(observe)"
