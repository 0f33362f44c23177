"""Leaves alone what keeps failing."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from infermesh.breaker import ALL, Breaker, Verdict, judged
from infermesh.call import Call
from infermesh.errors import MeshError, Unavailable, quoted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer

__all__ = ["BREAKER_OPEN", "CircuitBreaker"]

BREAKER_OPEN = "BREAKER_OPEN"  # the reason of its refusals
PROBE_TIMEOUT_S = 1.0  # a service that needs longer to say that it is ready is not
LEAST_PUSHBACK_S = 0.1  # while its health is asked and a trial is under way: who is told "at once" asks in a loop
TRIAL_FACTOR = 3.0  # of the usual time: a trial that takes longer is not waited for
LONGEST_TRIAL_S = 2.0
FIRST_FACTOR = 10.0  # of the patience: so long the first answer may take, before silence counts

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class CircuitBreaker(Filter):
    """While the breaker is open, calls are refused at once: UNAVAILABLE, reason BREAKER_OPEN, not started, with a pushback.

    The first call after the backoff asks `probe` (readiness, as the health check says it); when the answer is yes it is the trial
    that closes the breaker or opens it again. The others are refused meanwhile. The probe has a second of its own, and goes on
    when the call that asked for it has less, or goes away: the next call is the trial then. A trial that says nothing, for it is
    cancelled, too busy or short of time, leaves the next call to try; one that takes three times as long as answers usually do, 2
    s at most, does not keep others from trying beside it. With `enforce` off all calls go on, and what would be refused is
    observed.

    It stands outside of retries: what they mend is no failure. What counts as one, `judged` says; `counts` narrows it.
    """

    breaker: Breaker
    probe: Callable[[], Awaitable[bool]]
    enforce: bool = True
    counts: Collection[str] = ALL
    observe: Callable[[], None]  # of a call that is refused, or would be
    _answers: int = field(default=0, init=False, repr=False)
    _looking: asyncio.Future[None] | None = field(default=None, init=False, repr=False)
    _asked_at: float | None = field(default=None, init=False, repr=False)  # first, while nothing has been answered
    _tries_again_at: float = field(default=-math.inf, init=False, repr=False)

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        if self.breaker.is_closed:
            return await self._judged(request, call, then, trial=0)
        if self.breaker.due() and self._looking is None:
            await self._look(call)
        if self.breaker.is_half_open and self.breaker.now() >= self._tries_again_at:
            return await self._try(request, call, then)
        self.observe()
        if not self.enforce:
            return await self._judged(request, call, then, trial=0)
        raise Unavailable(
            f"model {quoted(request.model_name)}: {quoted(call.variant)} keeps failing, and is left alone for a while",
            reason=BREAKER_OPEN,
            rejected=True,
            retry_after_s=max(LEAST_PUSHBACK_S, self.breaker.retry_at - self.breaker.now()),
        )

    async def _look(self, call: Call) -> None:
        """Have its health asked, and wait for that as long as the call may."""
        self._looking = asyncio.ensure_future(self._ask_health())
        await asyncio.wait({self._looking}, timeout=min(2 * PROBE_TIMEOUT_S, max(0.0, call.deadline.remaining())))

    async def _ask_health(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                well = await self.probe()
        except (MeshError, TimeoutError):
            well = False
        except Exception as error:  # of ours; a breaker must not stay open for it without a word
            _log.error("the health behind a breaker could not be asked", exc_info=error)
            well = False
        finally:
            self._looking = None
        self._tries_again_at = -math.inf
        if well:
            self.breaker.half_open()
        else:
            self.breaker.still_broken()

    async def _try(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        period = self.breaker.period
        longest_s = min(LONGEST_TRIAL_S, TRIAL_FACTOR * self.breaker.patience_s)
        self._tries_again_at = self.breaker.now() + longest_s
        try:
            return await self._judged(request, call, then, trial=period)
        finally:
            if self.breaker.period == period:
                self._tries_again_at = -math.inf

    async def _judged(self, request: ModelInferRequest, call: Call, then: Infer, *, trial: int) -> ModelInferResponse:
        breaker, answers, had_s = self.breaker, self._answers, call.deadline.remaining()
        began = breaker.now()
        if not answers and self._asked_at is None:
            self._asked_at = began
        try:
            response = await then(request, call)
        except MeshError as error:
            silent = self._answers == answers and self._is_known(breaker)
            found = judged(error, had_s=had_s, patience_s=breaker.patience_s, silent=silent, counts=self.counts)
            if found is Verdict.ANSWER:
                self._answers += 1
                breaker.success(trial=trial)
            elif found is not Verdict.NEUTRAL:
                breaker.failure(trial=trial, in_a_row=found is Verdict.BROKEN)
            raise
        self._answers += 1
        breaker.took(breaker.now() - began)
        breaker.success(trial=trial)
        return response

    def _is_known(self, breaker: Breaker) -> bool:
        """Whether silence says anything: what has never answered may just need longer than the first callers have."""
        since = breaker.now() - self._asked_at if self._asked_at is not None else 0.0
        return bool(breaker.usual_s or self._answers) or since >= FIRST_FACTOR * breaker.limits.patience_s

    def __repr__(self) -> str:
        return "CircuitBreaker" if self.enforce else "CircuitBreaker(observe)"
