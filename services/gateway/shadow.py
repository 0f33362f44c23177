"""A candidate that sees real traffic and answers nobody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import ResourceExhausted
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer, InferenceService
from services.gateway.concurrency import CONCURRENCY_LIMITED

__all__ = ["Copies", "Shadow"]

Copies = set[asyncio.Task[str]]  # under way; they outlive the call that they were copied from


@dataclass(kw_only=True)
class Shadow(Filter):
    """Sends a copy of some calls to a candidate, and nobody waits for it.

    The copy is the same message, which nobody changes, with a call of its own: marked `shadow`, with the shadow's name as its
    variant and an end of its own. Whatever becomes of it, the primary's answer is neither later nor other. `copies` belongs to
    whoever ends them: cancel what is in it before the candidate is closed.
    """

    name: str
    candidate: InferenceService
    fraction: float  # of calls, 0 to 1
    max_in_flight: int = 64  # past this, copies are dropped: the candidate must not hurt the primary
    max_request_bytes: int = 1 << 20  # larger requests are not copied: a slow candidate would hold their memory
    budget_s: float = 1.0  # the copy's own deadline; the caller's is about someone who no longer waits
    copies: Copies = field(default_factory=set)
    draw: Callable[[], float] = random.random
    observe: Callable[[str], None]  # mirrored | failed | shed | skipped

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        if self.draw() < self.fraction:
            self._mirror(request, call)
        return await then(request, call)

    def _mirror(self, request: ModelInferRequest, call: Call) -> None:
        if len(self.copies) >= self.max_in_flight:
            self.observe("shed")
        elif request.ByteSize() > self.max_request_bytes:
            self.observe("skipped")
        else:
            # Begins when this call first waits, which is when its own request is on the way.
            copy = asyncio.create_task(self._send(request, call), name=f"shadow {self.name}")
            self.copies.add(copy)
            copy.add_done_callback(self._ended)

    async def _send(self, request: ModelInferRequest, call: Call) -> str:
        own = call.derive(deadline=Deadline.after(self.budget_s), variant=self.name, shadow=True, attempt=1)
        try:
            async with asyncio.timeout(self.budget_s):  # also for a candidate that does not look at the deadline
                await self.candidate.infer(request, own)
        except ResourceExhausted as error:
            return "shed" if error.reason == CONCURRENCY_LIMITED else "failed"
        except Exception:  # its faults are counted here and told by its own log
            return "failed"
        return "mirrored"

    def _ended(self, copy: asyncio.Task[str]) -> None:
        self.copies.discard(copy)
        if copy.cancelled() or copy.exception() is not None:
            self.observe("failed")
        else:
            self.observe(copy.result())

    def __repr__(self) -> str:
        return f"Shadow({self.name}, {self.fraction:g})"
