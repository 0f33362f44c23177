"""An end for every call."""

from __future__ import annotations

import asyncio
import math

import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, InvalidRequest
from infermesh.filters import WithinDeadline
from infermesh.protocol.open_inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse


class Below:
    """Notes the call that reaches it and answers, or waits until it is cancelled."""

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.calls: list[Call] = []
        self.cancelled = False

    async def __call__(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        self.calls.append(call)
        try:
            if self.waits:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return ModelInferResponse()


@pytest.mark.parametrize(
    ("given", "default_s", "maximum_s", "seen"),
    [
        (math.inf, 30, math.inf, 30),  # none: the default
        (math.inf, 30, 5, 30),  # the default is the operator's own word
        (10, 30, math.inf, 10),
        (100, 30, math.inf, 100),  # the default is for calls without one
        (100, 30, 60, 60),
        (math.inf, math.inf, math.inf, math.inf),
    ],
)
async def test_a_call_goes_on_with_the_end_that_holds_for_it(
    request_: ModelInferRequest, given: float, default_s: float, maximum_s: float, seen: float
) -> None:
    """Without a deadline the default holds, and no call lasts longer than the maximum."""
    below = Below()
    call = Call(deadline=Deadline.after(given) if given < math.inf else Deadline(math.inf))

    await WithinDeadline(default_s, maximum_s)(request_, call, below)

    assert below.calls[0].deadline.remaining() == pytest.approx(seen, abs=0.5)


@pytest.mark.parametrize(
    ("parameter", "seen"),
    [
        (InferParameter(int64_param=5_000_000), 5),
        (InferParameter(uint64_param=5_000_000), 5),
        (InferParameter(int64_param=0), 30),
        (InferParameter(int64_param=10**15), 30),
    ],
)
async def test_the_parameter_timeout_shortens_the_call(
    request_: ModelInferRequest, parameter: InferParameter, seen: float
) -> None:
    """`timeout` is in microseconds; 0 says nothing, and it never makes a call longer."""
    below = Below()
    request_.parameters["timeout"].CopyFrom(parameter)

    await WithinDeadline(30)(request_, Call(), below)

    assert below.calls[0].deadline.remaining() == pytest.approx(seen, abs=0.5)


async def test_a_timeout_that_is_no_number_is_refused(request_: ModelInferRequest) -> None:
    """A negative timeout is the caller's fault, and nothing is started for it."""
    below = Below()
    request_.parameters["timeout"].int64_param = -1

    with pytest.raises(InvalidRequest, match='parameter "timeout"'):
        await WithinDeadline(30)(request_, Call(), below)

    assert not below.calls


async def test_at_the_end_the_work_is_cancelled_and_the_caller_told(request_: ModelInferRequest) -> None:
    """DEADLINE_EXCEEDED names the model and the time that was given, and nothing goes on working for the call."""
    below = Below(waits=True)

    with pytest.raises(DeadlineExceeded, match=r'model "m": no answer within \d+ ms') as error:
        await WithinDeadline(30)(request_, Call(deadline=Deadline.after(0.02)), below)

    assert below.cancelled
    assert not error.value.rejected


async def test_a_call_whose_time_is_over_is_not_begun(request_: ModelInferRequest) -> None:
    """It is refused as rejected: no work was started."""
    below = Below()

    with pytest.raises(DeadlineExceeded, match="before work began") as error:
        await WithinDeadline(30)(request_, Call(deadline=Deadline.after(-1)), below)

    assert error.value.rejected
    assert not below.calls


async def test_a_caller_who_goes_away_is_no_deadline(request_: ModelInferRequest) -> None:
    """Cancellation stays cancellation, below and above."""
    below = Below(waits=True)
    task = asyncio.ensure_future(WithinDeadline(30)(request_, Call(), below))
    while not below.calls:
        await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert below.cancelled


async def test_a_timeout_of_the_service_itself_is_not_ours(request_: ModelInferRequest) -> None:
    """A TimeoutError from below is a defect there, and is not said to be the caller's deadline."""

    async def then(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        raise TimeoutError("a socket")

    with pytest.raises(TimeoutError, match="a socket"):
        await WithinDeadline(30)(request_, Call(), then)


async def test_without_a_timer_the_end_is_still_told_to_what_is_below() -> None:
    """Where what is below ends by itself, the deadline is set on the call all the same."""
    ends: list[float] = []

    async def below(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        ends.append(call.deadline.remaining())
        return ModelInferResponse()

    await WithinDeadline(2.0, ends_below=True)(ModelInferRequest(model_name="m"), Call(), below)

    assert 0 < ends[0] <= 2.0
