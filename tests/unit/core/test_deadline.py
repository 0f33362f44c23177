"""When a call has to be answered."""

import math

import pytest

from infermesh.deadline import NO_DEADLINE, Deadline


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_is_left_shrinks_and_is_never_negative(clock: Clock) -> None:
    """`remaining` follows the clock down to 0."""
    deadline = Deadline.after(2.0, clock)

    assert (deadline.remaining(), deadline.expired) == (2.0, False)
    clock.now += 1.5
    assert (deadline.remaining(), deadline.expired) == (0.5, False)
    clock.now += 0.5
    assert (deadline.remaining(), deadline.expired) == (0.0, True)
    clock.now += 9
    assert deadline.remaining() == 0.0


def test_the_earlier_of_two_deadlines_holds(clock: Clock) -> None:
    """`at_most` never moves a deadline back."""
    deadline = Deadline.after(2.0, clock)

    assert deadline.at_most(5.0).at == deadline.at
    assert deadline.at_most(0.5).remaining() == 0.5
    assert Deadline(math.inf, clock).at_most(3.0).remaining() == 3.0


def test_a_margin_makes_it_earlier_unless_there_is_none(clock: Clock) -> None:
    """`less` keeps time back of a deadline, and leaves an absent one absent."""
    assert Deadline.after(2.0, clock).less(0.25).remaining() == 1.75
    assert NO_DEADLINE.less(1.0) is NO_DEADLINE


def test_without_a_deadline_there_is_always_time() -> None:
    """No deadline is `inf`, and it does not expire."""
    assert NO_DEADLINE.remaining() == math.inf
    assert not NO_DEADLINE.expired


def test_it_prints_what_is_left(clock: Clock) -> None:
    """A deadline in a log says how far away it is."""
    assert repr(Deadline.after(1.25, clock)) == "Deadline(in 1.250 s)"
    assert repr(NO_DEADLINE) == "Deadline(none)"
