"""Another attempt, where that is safe."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from infermesh.call import Call
from infermesh.errors import ForeignStatus, Internal, MeshError, ResourceExhausted, Unavailable
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


class RetryBudget:
    """Bounds what retries add: every call earns `share` of one, and `minimum` of them may be made at once after a time without.

    So a replica that dies costs no call, and a backend that is overloaded gets no more than that share on top. (Finagle's
    RetryBudget; gRFC A6 has the same idea as `retryThrottling`.)
    """

    def __init__(self, share: float, minimum: float) -> None:
        self._share = share
        self._most = minimum
        self._saved = float(minimum)

    def earn(self) -> None:
        """One call was made."""
        if self._saved < self._most:
            self._saved = min(self._most, self._saved + self._share)

    def spend(self) -> bool:
        """Whether a retry may be made; then it is paid for."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


@dataclass
class Retry(Filter):
    """Makes another attempt after a replica went away, or after a refusal before any work was started (`error.rejected`).

    An inference has no effects, so one whose replica died on the way may be made again. What would fail again is not retried: a
    bad request, no such model, an UNAVAILABLE that some hop decided and gave a reason for other than its own start or stop; nor
    is a refusal that says when to come back. `attempts` counts the first. The second is made at once, since another replica may
    take it; later ones after a pause that doubles, with jitter. None is made when less time is left than the last attempt took,
    nor past the budget, which calls that fail for good leave to those that can be helped.
    """

    attempts: int
    budget: RetryBudget
    observe: Callable[[str], None]  # retried | no_budget | no_time
    pause_s: float = 0.025  # before the third attempt, on average
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        self.budget.earn()
        started = self.clock()
        try:
            return await then(request, call)
        except MeshError as failure:
            if not _is_safe(failure):
                raise
            error = failure
        return await self._again(request, call, then, error, self.clock() - started)

    async def _again(
        self, request: ModelInferRequest, call: Call, then: Infer, error: MeshError, took_s: float
    ) -> ModelInferResponse:
        for attempt in range(1, self.attempts):
            pause_s = self.pause_s * 2 ** (attempt - 2) * (0.5 + self.draw()) if attempt > 1 else 0.0
            if call.deadline.remaining() <= took_s + pause_s:
                self.observe("no_time")
                break
            if not self.budget.spend():
                self.observe("no_budget")
                break
            self.observe("retried")
            if pause_s:
                await self.sleep(pause_s)
            started = self.clock()
            try:
                return await then(request, call.derive(attempt=call.attempt + attempt))
            except MeshError as failure:
                if not _is_safe(failure):
                    raise
                error, took_s = failure, self.clock() - started
        raise error

    def __repr__(self) -> str:
        return f"Retry({self.attempts} attempts)"


def _is_safe(error: MeshError) -> bool:
    """Whether another attempt can do no harm, and some good."""
    if isinstance(error, Unavailable):
        return error.reason in _OF_ONE_REPLICA
    if isinstance(error, ResourceExhausted) and error.retry_after_s is not None:
        return False
    return error.rejected and isinstance(error, ResourceExhausted | Internal | ForeignStatus)
