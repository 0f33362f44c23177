"""What keeps failing is left alone, and found again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infermesh.breaker import Breaker, BreakerLimits
from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, Internal, InvalidRequest, MeshError, ResourceExhausted, Unavailable
from infermesh.filters import CircuitBreaker
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse


class Parts:
    """A CircuitBreaker that opens after two failures and waits a second, over a backend that does as it is told."""

    def __init__(self, clock: Any, *, enforce: bool = True) -> None:
        self.clock = clock
        self.error: Exception | None = None
        self.well: bool | Exception = True
        self.asked = self.probes = self.refused = 0
        self.wait: asyncio.Event | None = None
        self.probe_wait: asyncio.Event | None = None
        breaker = Breaker(BreakerLimits(failures=2, backoff_s=1.0), clock=clock, draw=lambda: 0.5)
        self.filter = CircuitBreaker(breaker=breaker, probe=self.probe, enforce=enforce, observe=self.observe)

    def observe(self) -> None:
        self.refused += 1

    async def probe(self) -> bool:
        self.probes += 1
        if self.probe_wait is not None:
            await self.probe_wait.wait()
        if isinstance(self.well, Exception):
            raise self.well
        return self.well

    async def backend(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        self.asked += 1
        if self.wait is not None:
            await self.wait.wait()
        if self.error is not None:
            raise self.error
        return ModelInferResponse(id=request.id)

    async def ask(self, request: ModelInferRequest, within_s: float = 5.0) -> ModelInferResponse:
        call = Call(deadline=Deadline.after(within_s, self.clock), variant="stable")
        return await self.filter(request, call, self.backend)

    async def open(self, request: ModelInferRequest) -> None:
        self.error = Unavailable("away")
        for _ in range(2):
            with pytest.raises(Unavailable, match="away"):
                await self.ask(request)
        self.error = None


@pytest.fixture
def parts(clock: Any) -> Parts:
    return Parts(clock)


async def test_open_it_refuses_at_once_and_says_why_and_when(parts: Parts, request_: ModelInferRequest) -> None:
    """UNAVAILABLE, not started, with the time until it is worth coming back; nobody is asked."""
    await parts.open(request_)
    parts.clock.now += 0.25

    with pytest.raises(Unavailable, match='"stable" keeps failing') as refused:
        await parts.ask(request_)

    assert (refused.value.reason, refused.value.rejected) == ("BREAKER_OPEN", True)
    assert refused.value.retry_after_s == pytest.approx(0.75)
    assert (parts.asked, parts.probes, parts.refused) == (2, 0, 1)


async def test_after_the_pause_health_is_asked_and_one_call_tries(parts: Parts, request_: ModelInferRequest) -> None:
    """While the trial is under way others are refused; its answer closes the breaker."""
    await parts.open(request_)
    parts.clock.now += 1.0
    parts.wait = asyncio.Event()

    trial = asyncio.ensure_future(parts.ask(request_))
    while parts.asked < 3:
        await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="keeps failing"):
        await parts.ask(request_)
    parts.wait.set()

    assert (await trial).id == "1"
    assert (await parts.ask(request_)).id == "1"
    assert parts.probes == 1


@pytest.mark.parametrize("well", [False, Unavailable("away")])
async def test_no_call_tries_while_health_says_no(parts: Parts, request_: ModelInferRequest, well: Any) -> None:
    """Then the pause doubles."""
    await parts.open(request_)
    parts.well = well
    parts.clock.now += 1.0

    with pytest.raises(Unavailable, match="keeps failing") as refused:
        await parts.ask(request_)

    assert parts.asked == 2
    assert refused.value.retry_after_s == pytest.approx(2.0)


async def test_a_trial_whose_caller_goes_away_leaves_the_next_call_to_try(
    parts: Parts, request_: ModelInferRequest
) -> None:
    """A cancelled trial says nothing, and does not leave the breaker half-open for ever."""
    await parts.open(request_)
    parts.clock.now += 1.0
    parts.wait = asyncio.Event()
    trial = asyncio.ensure_future(parts.ask(request_))
    while parts.asked < 3:
        await asyncio.sleep(0)

    trial.cancel()
    await asyncio.wait({trial})
    parts.wait = None

    assert (await parts.ask(request_)).id == "1"
    assert parts.filter.breaker.is_closed


@pytest.mark.parametrize("error", [InvalidRequest("bad"), ResourceExhausted("full")])
async def test_faults_of_callers_and_full_queues_open_nothing(
    parts: Parts, request_: ModelInferRequest, error: Exception
) -> None:
    """A storm of bad requests takes the model from nobody."""
    parts.error = error
    for _ in range(50):
        with pytest.raises(type(error)):
            await parts.ask(request_)

    assert parts.filter.breaker.is_closed


async def test_observing_lets_all_pass_and_counts(clock: Any, request_: ModelInferRequest) -> None:
    """In observe mode what would be refused is answered, and trials close the breaker all the same."""
    parts = Parts(clock, enforce=False)
    await parts.open(request_)

    assert (await parts.ask(request_)).id == "1"
    assert parts.refused == 1
    clock.now += 1.0
    await parts.ask(request_)
    assert parts.filter.breaker.is_closed


async def test_defects_count_as_failures(parts: Parts, request_: ModelInferRequest) -> None:
    """A variant that answers INTERNAL to everything is left alone, by its ratio."""
    parts.error = Internal("broken")
    for _ in range(20):
        with pytest.raises(Internal):
            await parts.ask(request_)

    with pytest.raises(Unavailable, match="keeps failing"):
        await parts.ask(request_)


async def test_defects_on_one_caller_s_input_take_the_model_from_nobody(
    parts: Parts, request_: ModelInferRequest
) -> None:
    """A server of another maker answers five INTERNALs in a row; the others are answered, and stay so."""
    for _ in range(10):
        parts.error = Internal("broken")
        for _ in range(5):
            with pytest.raises(Internal):
                await parts.ask(request_)
        parts.error = None
        for _ in range(8):
            assert (await parts.ask(request_)).id == "1"

    assert parts.filter.breaker.is_closed


async def test_a_route_says_what_counts(clock: Any, request_: ModelInferRequest) -> None:
    """Without `internal` no INTERNAL opens it, however many."""
    parts = Parts(clock)
    parts.filter.counts = ("unavailable", "deadline")
    parts.error = Internal("broken")

    for _ in range(100):
        with pytest.raises(Internal):
            await parts.ask(request_)

    assert parts.filter.breaker.is_closed


async def test_short_deadlines_do_not_take_a_model_from_others(parts: Parts, request_: ModelInferRequest) -> None:
    """Answers take 200 ms, and one in ten callers gives it that; the others, at 120 ms, are late, one after another."""

    async def slow(request: ModelInferRequest, call: Call) -> ModelInferResponse:
        left_s = call.deadline.remaining()
        parts.clock.now += min(0.2, left_s)
        if left_s < 0.2:
            raise DeadlineExceeded("late")
        return ModelInferResponse(id=request.id)

    for at in range(100):
        call = Call(deadline=Deadline.after(0.12 if at % 10 else 1.0, parts.clock))
        try:
            await parts.filter(request_, call, slow)
        except DeadlineExceeded:
            assert at % 10

    assert parts.filter.breaker.is_closed


async def test_the_first_callers_with_short_deadlines_open_nothing(parts: Parts, request_: ModelInferRequest) -> None:
    """Nobody knows yet how long answers take; a second of silence is long enough by any measure."""
    parts.error = DeadlineExceeded("late")

    for _ in range(20):
        with pytest.raises(DeadlineExceeded):
            await parts.ask(request_, within_s=0.12)
        parts.clock.now += 0.045
    assert parts.filter.breaker.is_closed
    parts.clock.now += 0.1
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            await parts.ask(request_, within_s=0.12)

    assert not parts.filter.breaker.is_closed


async def test_what_hangs_is_left_alone_by_those_who_gave_it_enough(parts: Parts, request_: ModelInferRequest) -> None:
    """Silence past what answers usually take counts."""
    for _ in range(3):
        await parts.ask(request_)
    parts.error = DeadlineExceeded("late")

    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            await parts.ask(request_, within_s=0.12)

    assert not parts.filter.breaker.is_closed


async def test_a_caller_with_little_time_does_not_keep_it_open(parts: Parts, request_: ModelInferRequest) -> None:
    """Its probe goes on without it, and what that says is heard; the next call is the trial."""
    await parts.open(request_)
    parts.clock.now += 1.0
    parts.probe_wait = asyncio.Event()
    retry_at = parts.filter.breaker.retry_at

    with pytest.raises(Unavailable, match="keeps failing") as refused:
        await parts.ask(request_, within_s=0.0)
    assert parts.filter.breaker.retry_at == retry_at
    assert refused.value.retry_after_s == pytest.approx(0.1)
    parts.probe_wait.set()
    while not parts.filter.breaker.is_half_open:
        await asyncio.sleep(0)

    assert (await parts.ask(request_)).id == "1"
    assert (parts.probes, parts.filter.breaker.is_closed) == (1, True)


async def test_a_caller_who_goes_away_leaves_the_probe_to_end(parts: Parts, request_: ModelInferRequest) -> None:
    """One probe at a time, whoever comes and goes."""
    await parts.open(request_)
    parts.clock.now += 1.0
    parts.probe_wait = asyncio.Event()
    asking = asyncio.ensure_future(parts.ask(request_))
    while not parts.probes:
        await asyncio.sleep(0)

    asking.cancel()
    await asyncio.wait({asking})
    with pytest.raises(Unavailable, match="keeps failing"):
        await parts.ask(request_)
    parts.probe_wait.set()
    while not parts.filter.breaker.is_half_open:
        await asyncio.sleep(0)

    assert (parts.probes, parts.asked) == (1, 2)


async def test_a_defect_in_the_probe_is_told_and_asked_again(
    parts: Parts, request_: ModelInferRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as not well, so that the pause goes on, and the log says what it was."""
    await parts.open(request_)
    parts.well = RuntimeError("a defect")
    parts.clock.now += 1.0

    with pytest.raises(Unavailable, match="keeps failing"):
        await parts.ask(request_)
    parts.well = True
    parts.clock.now += 2.0

    assert (await parts.ask(request_)).id == "1"
    assert "a defect" in caplog.text


async def test_a_trial_that_hangs_does_not_keep_others_out(parts: Parts, request_: ModelInferRequest) -> None:
    """Past three times what answers usually take another call may try, and others are told to wait 100 ms at least."""
    await parts.open(request_)
    parts.clock.now += 1.0
    parts.wait = asyncio.Event()
    hanging = asyncio.ensure_future(parts.ask(request_, within_s=300.0))
    while parts.asked < 3:
        await asyncio.sleep(0)
    parts.wait, hung = None, parts.wait

    parts.clock.now += 0.29  # three times the patience of 100 ms, since no answer has told more
    with pytest.raises(Unavailable, match="keeps failing") as refused:
        await parts.ask(request_)
    parts.clock.now += 0.02
    answered = await parts.ask(request_)

    assert refused.value.retry_after_s == pytest.approx(0.1)
    assert (answered.id, parts.filter.breaker.is_closed) == ("1", True)
    hung.set()
    await hanging


@pytest.mark.parametrize("error", [ResourceExhausted("full"), DeadlineExceeded("late", rejected=True)])
async def test_a_trial_that_says_nothing_leaves_the_next_to_try(
    parts: Parts, request_: ModelInferRequest, error: MeshError
) -> None:
    """Half-open it stays, and nobody is refused for it."""
    await parts.open(request_)
    parts.clock.now += 1.0
    parts.error = error
    with pytest.raises(type(error)):
        await parts.ask(request_)
    parts.error = None

    assert (await parts.ask(request_)).id == "1"
    assert parts.probes == 1
