"""An end for every call."""

from __future__ import annotations

import asyncio
import math
import types
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, cast

from infermesh.call import Call
from infermesh.errors import DeadlineExceeded, quoted
from infermesh.parameters import TIMEOUT, unsigned
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from infermesh.service import Filter, Infer

__all__ = ["WithinDeadline"]


@dataclass
class WithinDeadline(Filter):
    """Ends a call at its deadline with DEADLINE_EXCEEDED and cancels what works for it.

    A call without a deadline gets `default_s`; none lasts longer than `maximum_s`. The request parameter `timeout` (int64,
    microseconds) shortens it, as Triton's clients expect.
    """

    default_s: float
    maximum_s: float = math.inf
    ends_below: bool = (
        False  # what is below ends at the call's deadline by itself, as RemoteService does: no timer is needed
    )

    async def __call__(self, request: ModelInferRequest, call: Call, then: Infer) -> ModelInferResponse:
        limit = self.default_s if call.deadline.at == math.inf else self.maximum_s
        if (parameters := request.parameters) and TIMEOUT in parameters:
            limit = min(limit, unsigned(request, TIMEOUT) / 1e6 or math.inf)  # 0: none, as Triton reads it
        remaining = call.deadline.remaining()
        if limit < remaining:
            remaining = limit
            call = call.derive(deadline=call.deadline.at_most(limit))
        if remaining == math.inf:
            return await then(request, call)
        if remaining <= 0:
            raise DeadlineExceeded(
                f"model {quoted(request.model_name)}: the deadline had passed before work began", rejected=True
            )
        if self.ends_below:
            return await then(request, call)
        # What is answered without waiting for anything, as tiny models are, needs no timer: nothing could have cut it short.
        steps = then(request, call).__await__()
        try:
            awaited = next(steps)
        except StopIteration as end:
            return cast(ModelInferResponse, end.value)
        # As asyncio.timeout does it, at less than half its price: every call of every hop pays for this.
        task = asyncio.current_task()
        assert task is not None
        cancelled_before, expired = task.cancelling(), False

        def expire() -> None:
            nonlocal expired
            expired = True
            task.cancel()

        timer = asyncio.get_running_loop().call_later(call.deadline.remaining(), expire)
        try:
            return await _rest(steps, awaited)
        except asyncio.CancelledError:
            if not expired or task.uncancel() > cancelled_before:  # the caller went away
                raise
            raise DeadlineExceeded(
                f"model {quoted(request.model_name)}: no answer within {remaining * 1000:.0f} ms"
            ) from None
        finally:
            timer.cancel()

    def __repr__(self) -> str:
        return f"WithinDeadline({self.default_s:g} s)"


@types.coroutine
def _rest(steps: Generator[Any, None, ModelInferResponse], awaited: Any) -> Generator[Any, None, ModelInferResponse]:
    """What `await` would do from here on, with an awaitable that already waits for `awaited`."""
    while True:
        try:
            yield awaited
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:  # a cancellation, which the awaitable may answer by waiting for something else
            try:
                awaited = steps.throw(error)
            except StopIteration as end:
                return cast(ModelInferResponse, end.value)
        else:
            return (yield from steps)
