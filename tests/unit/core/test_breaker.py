"""A circuit breaker: when it opens, how long it waits, and what closes it."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from infermesh.breaker import Breaker, BreakerLimits, Verdict, judged
from infermesh.errors import (
    DeadlineExceeded,
    ForeignStatus,
    Internal,
    InvalidRequest,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(clock: Clock, **limits: Any) -> tuple[Breaker, list[str]]:
    changes: list[str] = []
    return Breaker(BreakerLimits(**limits), changed=changes.append, clock=clock, draw=lambda: 0.5), changes


def test_failures_in_a_row_open_it(clock: Clock) -> None:
    """One success in between starts the count anew."""
    breaker, changes = made(clock, failures=3)
    for _ in range(5):
        breaker.failure()
        breaker.failure()
        breaker.success()
    assert breaker.is_closed

    for _ in range(3):
        breaker.failure()

    assert not breaker.is_closed
    assert changes == ["opened"]


def test_a_low_share_of_successes_opens_it_past_a_minimum_of_calls(clock: Clock) -> None:
    """Every second call fails, never several in a row: not before the minimum, and not while the share is high enough."""
    breaker, _ = made(clock, failures=10, success_ratio=0.6, min_calls=20)
    for at in range(19):
        (breaker.failure if at % 2 else breaker.success)()
    assert breaker.is_closed

    breaker.failure()

    assert not breaker.is_closed


def test_what_is_older_than_the_window_does_not_count(clock: Clock) -> None:
    """Nineteen old failures and one new one are one failure."""
    breaker, _ = made(clock, failures=100, min_calls=20, window_s=10)
    for _ in range(19):
        breaker.failure()
    clock.now += 11

    breaker.failure()

    assert breaker.is_closed


def test_many_successes_long_ago_do_not_hide_that_everything_fails_now(clock: Clock) -> None:
    """After an hour of success the ratio falls within one window."""
    breaker, _ = made(clock, failures=10_000, min_calls=20, window_s=10)
    for _ in range(36_000):
        clock.now += 0.1
        breaker.success()

    for _ in range(110):
        clock.now += 0.1
        breaker.failure()

    assert not breaker.is_closed


def test_a_trial_closes_it_and_nothing_else_does(clock: Clock) -> None:
    """Answers to calls from before it opened are not heard; half-open, the trial alone decides."""
    breaker, changes = made(clock, failures=1, backoff_s=2.0)
    breaker.failure()
    breaker.success()
    assert not breaker.due()
    clock.now += 2.0
    assert breaker.due()

    breaker.half_open()
    breaker.success()
    assert not breaker.is_closed
    breaker.success(trial=breaker.period)

    assert breaker.is_closed
    assert changes == ["opened", "half_opened", "closed"]


def test_each_failed_trial_doubles_the_pause_up_to_its_bound(clock: Clock) -> None:
    """After a time of health it begins anew."""
    breaker, _ = made(clock, failures=1, backoff_s=1.0, max_backoff_s=4.0)
    breaker.failure()
    pauses = [breaker.retry_at - clock.now]
    for _ in range(3):
        clock.now = breaker.retry_at
        breaker.half_open()
        breaker.failure(trial=breaker.period)
        pauses.append(breaker.retry_at - clock.now)
    assert pauses == [1.0, 2.0, 4.0, 4.0]

    clock.now = breaker.retry_at
    breaker.half_open()
    breaker.success(trial=breaker.period)
    clock.now += 5.0
    breaker.failure()

    assert breaker.retry_at - clock.now == 1.0


@pytest.mark.parametrize(
    ("backoff_s", "max_backoff_s", "expected"),
    [
        (0.5, 30.0, [0.5, 1.0, 2.0, 2.0, 2.0]),
        (4.0, 30.0, [4.0] * 5),
        (0.125, 0.375, [0.125, 0.25, 0.375, 0.375, 0.375]),
    ],
)
def test_failed_health_checks_come_again_soon(
    clock: Clock, backoff_s: float, max_backoff_s: float, expected: list[float]
) -> None:
    """However long it was away, it is back within seconds; and they do not make the pause after a failed trial longer."""
    breaker, _ = made(clock, failures=1, backoff_s=backoff_s, max_backoff_s=max_backoff_s)
    breaker.failure()
    pauses = [breaker.retry_at - clock.now]
    for _ in range(4):
        clock.now = breaker.retry_at
        breaker.still_broken()
        pauses.append(breaker.retry_at - clock.now)
    assert pauses == expected

    breaker.half_open()
    breaker.failure(trial=breaker.period)

    assert breaker.retry_at - clock.now == min(2 * backoff_s, max_backoff_s)


@pytest.mark.parametrize("well", [True, False])
def test_a_trial_of_an_earlier_period_decides_nothing(clock: Clock, well: bool) -> None:
    """Its backend was another one, perhaps: it was asked before the breaker opened again."""
    breaker, _ = made(clock, failures=1, backoff_s=1.0)
    breaker.failure()
    breaker.half_open()
    stale = breaker.period
    breaker.failure(trial=stale)
    clock.now = breaker.retry_at
    breaker.half_open()

    (breaker.success if well else breaker.failure)(trial=stale)

    assert breaker.is_half_open and not breaker.is_closed


def test_what_a_server_says_has_failed_counts_in_the_ratio_alone(clock: Clock) -> None:
    """However many in a row; and it ends a row, since something answered."""
    breaker, _ = made(clock, failures=3, min_calls=20, success_ratio=0.5)
    for _ in range(2):
        breaker.failure()
        breaker.failure()
        breaker.failure(in_a_row=False)
    for _ in range(13):
        breaker.failure(in_a_row=False)
    assert breaker.is_closed

    breaker.failure(in_a_row=False)

    assert not breaker.is_closed


def test_patience_is_at_least_what_half_of_the_answers_take(clock: Clock) -> None:
    """Against the true median, after a change by a factor of twenty too; one odd answer moves it by a tenth at most."""
    breaker, _ = made(clock, patience_s=0.01)
    draw = random.Random(5)
    assert breaker.patience_s == 0.01
    for median_s in (0.02, 0.4, 0.02):
        for _ in range(400):
            breaker.took(draw.lognormvariate(math.log(median_s), 0.3))
        assert breaker.patience_s == pytest.approx(median_s, rel=0.3)

    before = breaker.patience_s
    breaker.took(60.0)

    assert breaker.patience_s <= before * 1.1


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Unavailable("away"), Verdict.BROKEN),
        (Internal("garbage", reason="BACKEND_GARBAGE"), Verdict.BROKEN),
        (Internal("failed"), Verdict.DEFECT),
        (ForeignStatus("UNKNOWN", "?"), Verdict.DEFECT),
        (Internal("failed on this input", reason="MODEL_FAILED"), Verdict.NEUTRAL),
        (ForeignStatus("ABORTED", "again"), Verdict.NEUTRAL),
        (ResourceExhausted("full"), Verdict.NEUTRAL),
        (InvalidRequest("bad"), Verdict.ANSWER),
        (NotFound("no"), Verdict.ANSWER),
        (DeadlineExceeded("late"), Verdict.BROKEN),
        (DeadlineExceeded("late", rejected=True), Verdict.NEUTRAL),
    ],
)
def test_what_speaks_against_what_was_asked(error: MeshError, verdict: Verdict) -> None:
    """A caller's fault and a full queue do not; an end by the deadline does when nobody was answered meanwhile."""
    assert judged(error, had_s=1.0, patience_s=0.1, silent=True) is verdict


@pytest.mark.parametrize(("had_s", "silent"), [(0.05, True), (1.0, False)])
def test_a_short_deadline_is_its_callers_affair(had_s: float, silent: bool) -> None:
    """Less time than the patience, or others that were answered meanwhile: the call says nothing."""
    assert judged(DeadlineExceeded("late"), had_s=had_s, patience_s=0.1, silent=silent) is Verdict.NEUTRAL


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unavailable("away"), "unavailable"),
        (Internal("garbage", reason="BACKEND_GARBAGE"), "unavailable"),
        (DeadlineExceeded("late"), "deadline"),
        (Internal("failed"), "internal"),
    ],
)
def test_who_sets_what_counts_is_obeyed(error: MeshError, kind: str) -> None:
    """A kind that is left out says nothing, for it and against it."""
    others = {"unavailable", "deadline", "internal"} - {kind}

    assert judged(error, had_s=1.0, patience_s=0.1, silent=True, counts=others) is Verdict.NEUTRAL
    assert judged(error, had_s=1.0, patience_s=0.1, silent=True, counts={kind}) is not Verdict.NEUTRAL
