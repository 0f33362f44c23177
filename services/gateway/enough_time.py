"""A call that comes too late is told so at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer
from services.gateway.recent_median import RecentMedian

__all__ = ["EnoughTime"]

PROBE_EVERY_S = 1.0
PROBE_WEIGHT = 20  # answers: of a share of one in twenty, that many were refused
OVERRUN = 1.25  # of a call that ended at its deadline: without it, calls with that very deadline would go on in vain


@dataclass(kw_only=True)
class EnoughTime(Filter):
    """Refuses a call that has less time left than half of the recent calls took: DEADLINE_EXCEEDED, reason NO_TIME, not started.

    It would most likely end at its deadline all the same, and take a place from one that can be answered in time. Answers count
    with the time that they took, and calls that ran out of time with a quarter more than they had: they would have taken longer,
    nobody knows how much. `probe_share` of the calls that would be refused go on, and one a second at least, so that a variant
    that is fast again is found. A probe that was answered in time speaks for those that were refused and might have been as well:
    it counts as `PROBE_WEIGHT` answers, so two in a row turn the median (the inverse of the chance to be seen, with a bound).
    """

    recent: RecentMedian
    enforce: bool = True
    probe_share: float = 0.05
    observe: Callable[[], None]  # of a call that has too little time
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    _probed_at: float | None = field(default=None, init=False, repr=False)

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        needs_s = self.recent.value
        weight = 1
        if needs_s is not None and call.deadline.remaining() < needs_s:
            now = self.clock()
            if self._probed_at is None:
                self._probed_at = now  # from the first one on
            if self.draw() < self.probe_share or now - self._probed_at >= PROBE_EVERY_S:
                self._probed_at, weight = now, PROBE_WEIGHT
            else:
                self.observe()
            if weight == 1 and self.enforce:
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
        took_s = self.clock() - started
        for _ in range(weight if needs_s is not None and took_s < needs_s else 1):
            self.recent.add(took_s)
        return response

    def __repr__(self) -> str:
        return "EnoughTime" if self.enforce else "EnoughTime(observe)"
