"""Another attempt, where that is safe."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from infermesh.call import Call
from infermesh.errors import ForeignStatus, Internal, MeshError, ResourceExhausted, Unavailable
from infermesh.parameters import is_of_sequence
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer

__all__ = ["Retry", "RetryBudget"]

# Reasons of UNAVAILABLE that say nothing about the call, only about one replica: another one may answer. All others are a
# decision, which every replica takes alike (the feature store is away, the model is not loaded): asking again is lost work.
_OF_ONE_REPLICA = frozenset(
    {
        Unavailable.default_reason,  # no hop gave one: a connection that broke, or was never made
        "STARTING",
        "CHANNEL_CLOSED",  # a replica that stops
    }
)


SLOTS = 10  # of a budget's window
WINDOW_S = 10.0


class RetryBudget:
    """Bounds what retries add: `share` of the calls of the last ten seconds, and `minimum` retries a second besides.

    So a replica that dies costs no call, and a backend that is overloaded gets no more than that share on top. What is saved up
    in the window may be spent at once, since a replica's death fails all that was under way there at once. (Finagle's
    RetryBudget, which has the same window; gRFC A6 has the same idea as `retryThrottling`.)
    """

    def __init__(self, share: float, minimum: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._reserve = minimum * WINDOW_S
        self._clock = clock
        self._slot = int(clock() * SLOTS / WINDOW_S)
        self._calls = 0  # in the present slot
        self._spent = 0
        self._past: list[tuple[int, int, int]] = []  # slot, calls, spent; of the window

    def earn(self) -> None:
        """One call was made."""
        slot = int(self._clock() * (SLOTS / WINDOW_S))
        if slot != self._slot:
            self._turn(slot)
        self._calls += 1

    def spend(self) -> bool:
        """Whether a retry may be made; then it is paid for."""
        slot = int(self._clock() * (SLOTS / WINDOW_S))
        if slot != self._slot:
            self._turn(slot)
        calls = self._calls + sum(each[1] for each in self._past)
        spent = self._spent + sum(each[2] for each in self._past)
        if spent + 1 > self._reserve + self._share * calls:
            return False
        self._spent += 1
        return True

    def _turn(self, slot: int) -> None:
        self._past.append((self._slot, self._calls, self._spent))
        self._past = [each for each in self._past if each[0] > slot - SLOTS]
        self._slot, self._calls, self._spent = slot, 0, 0


@dataclass
class Retry(Filter):
    """Makes another attempt after a replica went away, or after a refusal before any work was started (`error.rejected`).

    An inference has no effects, so one whose replica died on the way may be made again. What would fail again is not retried: a
    bad request, no such model, an UNAVAILABLE that some hop decided and gave a reason for other than its own start or stop. Each
    attempt is told where those before it failed (`call.tried`), so that another address is asked first.

    `attempts` counts the first. The second is made at once, since another replica may take it; later ones after a pause that
    doubles, with jitter. A refusal that says when to come back (pushback) is obeyed: the next attempt is made then, or not at all
    when that is more than `longest_pause_s` away, or never. What a replica that starts or stops says is about itself alone: where
    another address is ready, and was not tried, that is asked at once. With `rejected_only`, and for a call that belongs to a
    sequence (`sequence_id`), whose order and number of runs matter to the model, only what was not started is retried. None is
    made when less time is left than the pause and the last attempt take, nor past the budget, which calls that fail for good
    leave to those that can be helped.
    """

    attempts: int
    budget: RetryBudget
    observe: Callable[[str], None]  # retried | no_budget | no_time | pushed_back
    pause_s: float = 0.025  # before the third attempt, on average
    longest_pause_s: float = 1.0
    rejected_only: bool = False
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        self.budget.earn()
        started = self.clock()
        try:
            return await then(request, call)
        except MeshError as failure:
            if not self._is_safe(failure, request):
                raise
            error = failure
        return await self._again(request, call, then, error, self.clock() - started)

    async def _again(
        self, request: ModelInferRequest, call: Call, then: Infer, error: MeshError, took_s: float
    ) -> ModelInferResponse:
        tried = call.tried
        for attempt in range(1, self.attempts):
            pause_s = self.pause_s * 2 ** (attempt - 2) * (0.5 + self.draw()) if attempt > 1 else 0.0
            told_s = error.retry_after_s
            if told_s is not None and (told_s == math.inf or not error.elsewhere or not isinstance(error, Unavailable)):
                pause_s = max(pause_s, told_s)
                if pause_s > self.longest_pause_s:
                    self.observe("pushed_back")
                    break
            if call.deadline.remaining() <= took_s + pause_s:
                self.observe("no_time")
                break
            if not self.budget.spend():
                self.observe("no_budget")
                break
            self.observe("retried")
            if pause_s:
                await self.sleep(pause_s)
            if error.endpoint and error.endpoint not in tried:
                tried = (*tried, error.endpoint)
            started = self.clock()
            try:
                return await then(request, call.derive(attempt=call.attempt + attempt, tried=tried))
            except MeshError as failure:
                if not self._is_safe(failure, request):
                    raise
                error, took_s = failure, self.clock() - started
        raise error

    def _is_safe(self, error: MeshError, request: ModelInferRequest) -> bool:
        """Whether another attempt can do no harm, and some good."""
        if isinstance(error, Unavailable):
            if error.reason not in _OF_ONE_REPLICA:
                return False
            return error.rejected or not (self.rejected_only or is_of_sequence(request))
        return error.rejected and isinstance(error, ResourceExhausted | Internal | ForeignStatus)

    def __repr__(self) -> str:
        return f"Retry({self.attempts} attempts{', not started alone' if self.rejected_only else ''})"
