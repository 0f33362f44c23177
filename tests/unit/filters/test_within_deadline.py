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


async def test_what_is_answered_without_waiting_needs_no_timer(
    request_: ModelInferRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny model answers within one step of the loop: nothing is set up for its end."""
    timers: list[float] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", lambda delay, *_: timers.append(delay))

    await WithinDeadline(30)(request_, Call(), Below())

    assert timers == []


async def test_a_call_that_waits_many_times_is_answered(request_: ModelInferRequest) -> None:
    """Every step goes on where the last one ended, for futures and for bare turns of the loop."""
    steps: list[int] = []

    async def below(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        for number in range(3):
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            steps.append(number)
        return ModelInferResponse(id="done")

    assert (await WithinDeadline(30)(request_, Call(), below)).id == "done"
    assert steps == [0, 1, 2]


@pytest.mark.parametrize("turns", [0, 1])
async def test_what_fails_after_a_wait_fails_as_it_is(request_: ModelInferRequest, turns: int) -> None:
    """An error from below is not changed, whether it comes at the first step or a later one."""

    async def below(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        for _ in range(turns):
            await asyncio.sleep(0)
        raise InvalidRequest("wrong")

    with pytest.raises(InvalidRequest, match="wrong"):
        await WithinDeadline(30)(request_, Call(), below)


async def test_what_cleans_up_while_it_is_cancelled_may_wait_for_that(request_: ModelInferRequest) -> None:
    """The deadline's cancellation reaches what is below, which may wait once more before it goes."""
    cleaned: list[str] = []

    async def below(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")
        return ModelInferResponse()

    with pytest.raises(DeadlineExceeded, match="no answer within"):
        await WithinDeadline(30)(request_, Call(deadline=Deadline.after(0.01)), below)

    assert cleaned == ["up"]


async def test_an_answer_in_spite_of_a_cancellation_is_an_answer(request_: ModelInferRequest) -> None:
    """What is below had finished its work when the end came."""

    async def below(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return ModelInferResponse(id="late")
        return ModelInferResponse()

    answer = await WithinDeadline(30)(request_, Call(deadline=Deadline.after(0.01)), below)

    assert answer.id == "late"


async def test_closing_it_closes_what_is_below(request_: ModelInferRequest) -> None:
    """A loop that ends in the middle of a call leaves nothing half open."""
    closed: list[bool] = []

    async def below(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(True)
        return ModelInferResponse()

    coroutine = WithinDeadline(30)(request_, Call(), below)
    coroutine.send(None)
    coroutine.close()

    assert closed == [True]
