"""Tests of the test whether values are larger, beside scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from services.gateway.compare.histogram import LogHistogram
from services.gateway.compare.rank_test import larger, larger_of_counts

SAMPLE = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=120)


@settings(deadline=None)
@given(SAMPLE, SAMPLE)
def test_it_is_mann_and_whitneys(first: list[float], second: list[float]) -> None:
    """With ties, the p-value is the one of scipy's normal approximation."""
    found = larger_of_counts(_counts(first), _counts(second))

    if len({*first, *second}) == 1:
        assert found == 1  # nothing to tell them apart by: scipy has NaN, or what its correction for continuity leaves
    else:
        expected = stats.mannwhitneyu(first, second, alternative="greater", method="asymptotic").pvalue
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_larger_values_are_told() -> None:
    """Values five times as large differ, in this direction alone."""
    small, large = LogHistogram(), LogHistogram()
    for at in range(200):
        small.add(at * 1e-6)
        large.add(at * 5e-6)

    assert larger(large, small) < 1e-9
    assert larger(small, large) > 0.99


def test_nothing_is_not_smaller() -> None:
    """Without values on one side there is nothing to tell."""
    some = LogHistogram()
    some.add(1.0)

    assert larger(some, LogHistogram()) == larger(LogHistogram(), some) == 1


def _counts(values: list[float]) -> dict[float, int]:
    return {value: values.count(value) for value in values}
