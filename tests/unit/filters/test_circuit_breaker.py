"""What keeps failing is left alone, and found again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infermesh.breaker import Breaker, BreakerLimits
from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import Internal, InvalidRequest, ResourceExhausted, Unavailable
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
        breaker = Breaker(BreakerLimits(failures=2, backoff_s=1.0), clock=clock, draw=lambda: 0.5)
        self.filter = CircuitBreaker(breaker=breaker, probe=self.probe, enforce=enforce, observe=self.observe)

    def observe(self) -> None:
        self.refused += 1

    async def probe(self) -> bool:
        self.probes += 1
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

    async def ask(self, request: ModelInferRequest) -> ModelInferResponse:
        call = Call(deadline=Deadline.after(5, self.clock), variant="stable")
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
    """A variant that answers INTERNAL to everything is left alone."""
    parts.error = Internal("broken")
    for _ in range(2):
        with pytest.raises(Internal):
            await parts.ask(request_)

    with pytest.raises(Unavailable, match="keeps failing"):
        await parts.ask(request_)
