"""Tests of the histogram over many orders of magnitude."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.compare.histogram import ACCURACY, LARGEST, SMALLEST, LogHistogram, SignedHistogram

VALUES = st.one_of(st.just(0.0), st.floats(SMALLEST, LARGEST))


def filled(values: list[float]) -> LogHistogram:
    made = LogHistogram()
    for value in values:
        made.add(value)
    return made


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_within_its_stated_error(values: list[float], share: float) -> None:
    """It is within 1 % of the value of that rank, whatever the values."""
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]

    assert filled(values).quantile(share) == pytest.approx(exact, rel=ACCURACY * 1.000001, abs=0)


@settings(deadline=None)
@given(st.lists(st.one_of(VALUES, VALUES.map(lambda value: -value)), min_size=1, max_size=100))
def test_a_median_of_either_sign_is_within_its_stated_error(values: list[float]) -> None:
    """The lower median, 1 % off at most."""
    made = SignedHistogram()
    for value in values:
        made.add(value)

    assert made.median() == pytest.approx(sorted(values)[(len(values) + 1) // 2 - 1], rel=ACCURACY * 1.000001, abs=0)


@settings(deadline=None)
@given(st.lists(st.floats(0, allow_nan=False), max_size=50))
def test_a_histogram_is_kept(values: list[float]) -> None:
    """What was written as JSON says what the histogram said, infinities among its values too."""
    made = filled(values)

    again = LogHistogram.restored(json.loads(json.dumps(made.state(), allow_nan=False)))

    assert again.state() == made.state()
    assert again.count == made.count == len(values)


def test_buckets_say_what_they_hold() -> None:
    """Lowest first, zeros as 0, all values counted."""
    values = list(filled([0.0, 5.0, 0.0, 2.0, 2.0]).values())

    assert [count for _, count in values] == [2, 2, 1]
    assert [value for value, _ in values] == pytest.approx([0.0, 2.0, 5.0], rel=ACCURACY)


def test_buckets_are_bounded() -> None:
    """Any number of values of any size takes at most 4,146 buckets; what is out of range counts at its end."""
    made = filled([10.0 ** (at / 1000) for at in range(-30_000, 30_000)])

    assert len(made.buckets) <= 4146
    assert made.quantile(1) == pytest.approx(LARGEST, rel=0.01)
    assert made.quantile(0) == 0
    assert made.largest == pytest.approx(10**29.999)


@pytest.mark.parametrize("value", [-1e-9, math.nan])
def test_a_value_that_is_no_size_is_refused(value: float) -> None:
    """A negative value or NaN would end in no bucket."""
    with pytest.raises(ValueError, match="expected a number of 0 or more"):
        LogHistogram().add(value)


def test_nothing_has_no_quantile() -> None:
    """A quantile of no values is NaN, and not 0."""
    assert math.isnan(LogHistogram().quantile(0.5))
    assert math.isnan(SignedHistogram().median())
