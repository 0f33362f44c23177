"""A candidate that sees real traffic and answers nobody."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import ResourceExhausted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer, InferenceService
from services.gateway.concurrency import CONCURRENCY_LIMITED
from services.gateway.copies import Copies
from services.gateway.pairs import OpenPair, Pairs

__all__ = ["Shadow", "never"]


def never() -> bool:
    """Nothing is known of an overload."""
    return False


@dataclass(kw_only=True)
class Shadow(Filter):
    """Sends a copy of some calls to a candidate, and nobody waits for it.

    The copy is the same message, which nobody changes, with a call of its own: marked `shadow`, with the shadow's name as its
    variant and an end of its own. Whatever becomes of it, the primary's answer is neither later nor other. `copies` belongs to
    whoever ends them: cancel what is in it before the candidate is closed.

    With `pairs` both answers are handed over to be compared, and some calls are asked of the primary once more, as a copy too:
    how it differs from itself is the measure for how the candidate differs from it.
    """

    name: str
    candidate: InferenceService
    fraction: float  # of calls, 0 to 1
    max_in_flight: int = 64  # past this, copies wait or are dropped: the candidate must not hurt the primary
    max_waiting: int = 0
    max_request_bytes: int = 1 << 20  # larger requests are not copied: a slow candidate would hold their memory
    budget_s: float = 1.0  # the copy's own deadline; the caller's is about someone who no longer waits
    copies: Copies = field(default_factory=Copies)
    pairs: Pairs | None = None
    overloaded: Callable[[], bool] = never  # then calls come first, and none is copied
    draw: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic
    observe: Callable[[str], None]  # mirrored | failed | shed | skipped | suppressed

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        if self.draw() >= self.fraction:
            return await then(request, call)
        if why := self._no_room(request):
            self.observe(why)
            return await then(request, call)
        if (journal := call.journal) is not None:
            journal.shadows.append(self.name)
        if self.pairs is None:
            self._begin(self._mirror(request, self._call(call, self.name), None))
            return await then(request, call)
        return await self._compared(self.pairs, request, call, then)

    async def _compared(self, pairs: Pairs, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        pair = pairs.begin(call)
        self._begin(self._mirror(request, self._call(call, self.name), pair))
        began = self.clock()
        try:
            response = await then(request, call)
        except BaseException as error:
            pair.primary_failed(error, self.clock() - began)
            raise
        pair.primary_answered(response, self.clock() - began)
        if self.draw() < pairs.repeat and (again := pairs.again(response)) is not None and not self._no_room(request):
            once_more = pairs.begin(call, repeats=True)
            once_more.primary_answered(response, self.clock() - began)
            self._begin(self._repeat(again, request, self._call(call, once_more.variant), once_more))
        return response

    def _no_room(self, request: ModelInferRequest) -> str:
        """Why the call can't be copied; empty when it can."""
        if self.overloaded():
            return "suppressed"
        if len(self.copies) >= self.max_in_flight + self.max_waiting:
            return "shed"
        return "skipped" if request.ByteSize() > self.max_request_bytes else ""

    def _begin(self, copy: Coroutine[Any, Any, None]) -> None:
        self.copies.start(copy, f"shadow {self.name}")

    def _call(self, call: Call, variant: str) -> Call:
        return call.derive(deadline=Deadline.after(self.budget_s), variant=variant, shadow=True, attempt=1)

    async def _mirror(self, request: ModelInferRequest, copy: Call, pair: OpenPair | None) -> None:
        outcome = "failed"  # also when it is cancelled
        try:
            outcome = await self._ask(self.candidate, request, copy, pair)
        finally:
            self.observe(outcome)

    async def _repeat(self, service: InferenceService, request: ModelInferRequest, copy: Call, pair: OpenPair) -> None:
        await self._ask(service, request, copy, pair)

    async def _ask(
        self, service: InferenceService, request: ModelInferRequest, copy: Call, pair: OpenPair | None
    ) -> str:
        """What became of a copy; its faults are counted, and told by the candidate's own log."""
        began = self.clock()
        try:
            async with asyncio.timeout(self.budget_s):  # also for a candidate that does not look at the deadline
                async with self.copies.turn(self.max_in_flight):
                    began = self.clock()
                    response = await service.infer(request, copy)
        except Exception as error:
            if isinstance(error, ResourceExhausted) and error.reason == CONCURRENCY_LIMITED:
                return "shed"  # by us: it says nothing about the candidate
            if pair is not None:
                pair.other_failed(error, self.clock() - began)
            return "failed"
        if pair is not None:
            pair.other_answered(response, self.clock() - began)
        return "mirrored"

    def __repr__(self) -> str:
        return f"Shadow({self.name}, {self.fraction:g})"
