"""Tests of other attempts."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    ForeignStatus,
    Internal,
    InvalidRequest,
    MeshError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from infermesh.filters import Retry, RetryBudget
from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse


class Backend:
    """Raises the errors that it was given, one for each attempt, and then answers; every attempt takes its time."""

    def __init__(self, clock: Any, *errors: BaseException, takes_s: float = 0.0) -> None:
        self.calls: list[Call] = []
        self._clock, self._errors, self._takes_s = clock, list(errors), takes_s

    async def __call__(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        self.calls.append(call)
        self._clock.now += self._takes_s
        if self._errors:
            raise self._errors.pop(0)
        return ModelInferResponse(id=request.id)


class Parts:
    """A Retry whose clock stands, whose pauses are noted, and whose outcomes are counted."""

    def __init__(self, clock: Any, *, attempts: int = 3, share: float = 0.1, minimum: float = 10) -> None:
        self.pauses: list[float] = []
        self.seen: list[str] = []
        self.clock = clock
        budget = RetryBudget(share, minimum, clock)
        self.retry = Retry(
            attempts, budget, self.seen.append, clock=clock, draw=lambda: 0.5, sleep=self.sleep, pause_s=0.02
        )

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.now += seconds


@pytest.fixture
def parts(clock: Any) -> Parts:
    return Parts(clock)


async def test_a_dead_replica_costs_no_call(parts: Parts, request_: ModelInferRequest) -> None:
    """After UNAVAILABLE another attempt is made at once, which says that it is the second; the answer is as without."""
    backend = Backend(parts.clock, Unavailable("socket closed"))

    response = await parts.retry(request_, Call(), backend)

    assert response.id == "1"
    assert [call.attempt for call in backend.calls] == [1, 2]
    assert parts.pauses == []
    assert parts.seen == ["retried"]


async def test_later_attempts_wait_and_then_the_last_error_is_told(parts: Parts, request_: ModelInferRequest) -> None:
    """The third attempt comes after a pause; when the attempts are used up, the last error is the answer."""
    backend = Backend(parts.clock, *(Unavailable(f"away {n}") for n in range(5)))

    with pytest.raises(Unavailable, match="away 2"):
        await parts.retry(request_, Call(), backend)

    assert [call.attempt for call in backend.calls] == [1, 2, 3]
    assert parts.pauses == [pytest.approx(0.02)]


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("away"),
        Unavailable("socket closed", hop="predictor"),  # what the hop between saw of the one below it
        Unavailable("starting", reason="STARTING", rejected=True, retry_after_s=1.0),
        Unavailable("its channel was closed", reason="CHANNEL_CLOSED", hop="transformer"),
        ResourceExhausted("full", rejected=True),
        Internal("lost", rejected=True),
        ForeignStatus("ABORTED", "moved", rejected=True),
    ],
)
async def test_what_is_safe_is_tried_again(parts: Parts, request_: ModelInferRequest, error: MeshError) -> None:
    """A backend that went away, and what was refused before any work where another replica may take it, are retried."""
    backend = Backend(parts.clock, error)

    assert (await parts.retry(request_, Call(), backend)).id == "1"


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("bad", rejected=True),
        NotFound("no model", rejected=True),
        PermissionDenied("no", rejected=True),
        FailedPrecondition("no feature", rejected=True),
        Unimplemented("never", rejected=True),
        DeadlineExceeded("late", rejected=True),
        Unavailable("Redis is away", reason="FEATURE_STORE_UNAVAILABLE", hop="transformer", rejected=True),
        Unavailable("not loaded", reason="MODEL_NOT_READY", hop="predictor", rejected=True),
        Unavailable("another version answered", reason="VERSION_CHANGED", hop="explainer"),
        ResourceExhausted("come back much later", rejected=True, retry_after_s=1.1),
        ResourceExhausted("half done"),
        Internal("broken"),
        ForeignStatus("DATA_LOSS", "gone"),
        RuntimeError("a defect"),
    ],
)
async def test_what_would_fail_again_or_may_be_done_is_not(
    parts: Parts, request_: ModelInferRequest, error: Exception
) -> None:
    """A caller's mistake, a pushback, what a hop decided, work that may be done, and our own defects are told at once."""
    backend = Backend(parts.clock, error)

    with pytest.raises(type(error)):
        await parts.retry(request_, Call(), backend)

    assert len(backend.calls) == 1
    assert "retried" not in parts.seen


async def test_a_refusal_that_says_when_is_obeyed(parts: Parts, request_: ModelInferRequest) -> None:
    """The next attempt comes when the pushback said, in place of at once."""
    backend = Backend(parts.clock, ResourceExhausted("queue full", rejected=True, retry_after_s=0.3))

    assert (await parts.retry(request_, Call(), backend)).id == "1"
    assert parts.pauses == [0.3]


async def test_a_pushback_past_the_deadline_is_given_back(parts: Parts, request_: ModelInferRequest) -> None:
    """A caller who can't wait so long is told at once, and told when to come back."""
    backend = Backend(parts.clock, ResourceExhausted("queue full", rejected=True, retry_after_s=0.3))

    with pytest.raises(ResourceExhausted) as refused:
        await parts.retry(request_, Call(deadline=Deadline.after(0.2, parts.clock)), backend)

    assert refused.value.retry_after_s == 0.3
    assert (parts.pauses, parts.seen) == ([], ["no_time"])


async def test_a_pushback_of_a_replica_that_starts_binds_not_the_second_attempt(
    parts: Parts, request_: ModelInferRequest
) -> None:
    """Another replica is asked at once; when that one pushes back too, and there is no third, its word counts."""
    starting = [Unavailable("starting", reason="STARTING", rejected=True, retry_after_s=0.2) for _ in range(2)]
    starting[0].elsewhere = True
    backend = Backend(parts.clock, *starting)

    assert (await parts.retry(request_, Call(), backend)).id == "1"
    assert parts.pauses == [0.2]


async def test_the_only_replica_s_pushback_is_obeyed_at_once(parts: Parts, request_: ModelInferRequest) -> None:
    """There is no other address to ask: the second attempt comes when it said."""
    starting = Unavailable("starting", reason="STARTING", rejected=True, retry_after_s=0.2)
    backend = Backend(parts.clock, starting)

    assert (await parts.retry(request_, Call(), backend)).id == "1"
    assert parts.pauses == [0.2]


@pytest.mark.parametrize("kind", [Unavailable, ResourceExhausted])
async def test_who_says_never_is_not_asked_again(
    parts: Parts, request_: ModelInferRequest, kind: type[MeshError]
) -> None:
    """Nor is anybody else: it is about the call (gRFC A6)."""
    error = kind("no more", rejected=True, retry_after_s=math.inf)
    error.elsewhere = True
    backend = Backend(parts.clock, error)

    with pytest.raises(kind, match="no more"):
        await parts.retry(request_, Call(), backend)

    assert (len(backend.calls), parts.pauses, parts.seen) == (1, [], ["pushed_back"])


@pytest.mark.parametrize(("rejected", "attempts"), [(False, 1), (True, 2)])
async def test_a_call_of_a_sequence_is_made_again_only_if_it_was_not_begun(
    parts: Parts, request_: ModelInferRequest, rejected: bool, attempts: int
) -> None:
    """A model with state would take its step twice."""
    request_.parameters["sequence_id"].int64_param = 7
    backend = Backend(parts.clock, *(Unavailable("reset", rejected=rejected) for _ in range(attempts)))

    with pytest.raises(Unavailable) if not rejected else nullcontext():
        await parts.retry(request_, Call(), backend)

    assert len(backend.calls) == attempts + rejected


async def test_where_a_second_run_would_do_harm_only_what_was_not_begun_is_retried(
    parts: Parts, request_: ModelInferRequest
) -> None:
    """As a route can say of its model."""
    parts.retry.rejected_only = True
    begun, refused = Backend(parts.clock, Unavailable("reset")), Backend(parts.clock, Unavailable("x", rejected=True))

    with pytest.raises(Unavailable, match="reset"):
        await parts.retry(request_, Call(), begun)

    assert (await parts.retry(request_, Call(), refused)).id == "1"
    assert (len(begun.calls), len(refused.calls)) == (1, 2)


async def test_each_attempt_knows_where_those_before_it_failed(parts: Parts, request_: ModelInferRequest) -> None:
    """What is below can ask another address first."""
    errors = [Unavailable("away"), Unavailable("away")]
    errors[0].endpoint, errors[1].endpoint = "10.0.0.1:8001", "10.0.0.2:8001"
    backend = Backend(parts.clock, *errors)

    await parts.retry(request_, Call(), backend)

    assert [call.tried for call in backend.calls] == [
        (),
        ("10.0.0.1:8001",),
        ("10.0.0.1:8001", "10.0.0.2:8001"),
    ]


async def test_no_attempt_is_made_when_less_time_is_left_than_the_last_took(
    parts: Parts, request_: ModelInferRequest
) -> None:
    """A retry that can't be in time is not begun."""
    backend = Backend(parts.clock, Unavailable("away"), takes_s=0.3)

    with pytest.raises(Unavailable):
        await parts.retry(request_, Call(deadline=Deadline.after(0.5, parts.clock)), backend)

    assert len(backend.calls) == 1
    assert parts.seen == ["no_time"]


async def test_retries_are_a_share_of_the_calls_and_a_few_a_second(clock: Any, request_: ModelInferRequest) -> None:
    """When everything fails, a fifth of the calls of ten seconds and three retries a second come on top, and no more."""
    parts = Parts(clock, share=0.2, minimum=3, attempts=2)
    backend = Backend(clock, *(Unavailable("away") for _ in range(9000)))

    for _ in range(3000):  # for 30 s
        clock.now += 0.01
        with pytest.raises(Unavailable):
            await parts.retry(request_, Call(), backend)

    retries = len(backend.calls) - 3000
    assert 0.2 * 3000 + 3 * 30 - 30 <= retries <= 0.2 * 3000 + 3 * 30 + 30
    assert parts.seen.count("no_budget") > 2000


async def test_what_a_hop_decided_leaves_the_budget_to_a_replica_that_dies(
    clock: Any, request_: ModelInferRequest
) -> None:
    """While a feature store is away its calls are refused once each, and those whose replica dies are all answered."""
    parts = Parts(clock, share=0.0, minimum=2)
    refused = Backend(
        clock, *(Unavailable("store", reason="FEATURE_STORE_UNAVAILABLE", rejected=True) for _ in range(400))
    )
    for at in range(100):
        with pytest.raises(Unavailable, match="store"):
            await parts.retry(request_, Call(), refused)
        if at % 5 == 0:
            dying = Backend(clock, Unavailable("socket closed"))
            assert (await parts.retry(request_, Call(), dying)).id == "1"

    assert len(refused.calls) == 100
    assert parts.seen == ["retried"] * 20


async def test_what_a_quiet_time_saves_is_ten_seconds_worth(clock: Any) -> None:
    """A long time without retries is no licence for a storm: only the last ten seconds count."""
    budget = RetryBudget(0.5, 0.2, clock)
    for _ in range(100):
        budget.earn()
    clock.now += 60

    assert [budget.spend() for _ in range(3)] == [True, True, False]
    budget.earn()
    budget.earn()
    assert budget.spend()
    assert not budget.spend()
    clock.now += 10.5
    assert budget.spend()


async def test_an_error_of_a_later_attempt_that_is_not_safe_ends_it(parts: Parts, request_: ModelInferRequest) -> None:
    """A second attempt that is refused for good is the answer."""
    backend = Backend(parts.clock, Unavailable("away"), NotFound("no such model"))

    with pytest.raises(NotFound):
        await parts.retry(request_, Call(), backend)

    assert len(backend.calls) == 2
