"""Leaves alone what keeps failing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from infermesh.breaker import Breaker, is_broken, is_neutral
from infermesh.call import Call
from infermesh.errors import MeshError, Unavailable, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer

__all__ = ["CircuitBreaker"]

PROBE_TIMEOUT_S = 1.0  # a service that needs longer to say that it is ready is not


@dataclass(kw_only=True)
class CircuitBreaker(Filter):
    """While the breaker is open, calls are refused at once: UNAVAILABLE, reason BREAKER_OPEN, not started, with a pushback.

    The first call after the backoff asks `probe` (readiness, as the health check says it); when the answer is yes it is the trial
    that closes the breaker or opens it again. The others are refused meanwhile. Nothing runs in the background. With `enforce`
    off all calls go on, and what would be refused is observed.

    It stands outside of retries: what they mend is no failure. What counts as one, `is_broken` says.
    """

    breaker: Breaker
    probe: Callable[[], Awaitable[bool]]
    enforce: bool = True
    observe: Callable[[], None]  # of a call that is refused, or would be
    _answers: int = field(default=0, init=False, repr=False)
    _trying: bool = field(default=False, init=False, repr=False)

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        if self.breaker.is_closed:
            return await self._judged(request, call, then, trial=False)
        if not self._trying and (self.breaker.is_half_open or self.breaker.due()):
            self._trying = True
            try:
                if self.breaker.is_half_open or await self._is_well(call):
                    return await self._judged(request, call, then, trial=True)
            finally:
                self._trying = False
        self.observe()
        if not self.enforce:
            return await self._judged(request, call, then, trial=False)
        wait_s = max(0.0, self.breaker.retry_at - self.breaker.now())
        raise Unavailable(
            f"model {quoted(request.model_name)}: {quoted(call.variant)} keeps failing, and is left alone for a while",
            reason="BREAKER_OPEN",
            rejected=True,
            retry_after_s=wait_s,
        )

    async def _is_well(self, call: Call) -> bool:
        well = False
        try:
            async with asyncio.timeout(min(PROBE_TIMEOUT_S, call.deadline.remaining())):
                well = await self.probe()
        except (MeshError, TimeoutError):
            well = False
        if well:
            self.breaker.half_open()
        else:
            self.breaker.still_broken()
        return well

    async def _judged(self, request: ModelInferRequest, call: Call, then: Infer, *, trial: bool) -> ModelInferResponse:
        answers, had_s = self._answers, call.deadline.remaining()
        try:
            response = await then(request, call)
        except MeshError as error:
            silent = self._answers == answers
            if is_broken(error, had_s=had_s, patience_s=self.breaker.limits.patience_s, silent=silent):
                self.breaker.failure(trial=trial)
            elif not is_neutral(error):
                self._answers += 1
                self.breaker.success(trial=trial)
            raise
        self._answers += 1
        self.breaker.success(trial=trial)
        return response

    def __repr__(self) -> str:
        return "CircuitBreaker" if self.enforce else "CircuitBreaker(observe)"
