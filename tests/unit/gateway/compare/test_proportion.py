"""Tests of shares, their intervals and Fisher's test, beside scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from services.gateway.compare.proportion import Proportion, fisher_greater


@settings(deadline=None)
@given(st.integers(1, 5000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_the_interval_is_clopper_and_pearsons(counts: tuple[int, int]) -> None:
    """Both ends are the beta quantiles that scipy gives."""
    hits, of = counts
    expected = stats.binomtest(hits, of).proportion_ci(0.95, "exact")

    found = Proportion(hits, of)

    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize(("hits", "of"), [(0, 10**7), (3, 10**7), (4_000_000, 10**7), (10**7, 10**7)])
def test_the_interval_of_many_calls(hits: int, of: int) -> None:
    """Ten million calls are no other case."""
    expected = stats.binomtest(hits, of).proportion_ci(0.95, "exact")

    found = Proportion(hits, of)

    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-12)


def test_nothing_seen_says_nothing() -> None:
    """Of no calls the share may be anything."""
    found = Proportion(0, 0)

    assert math.isnan(found.share)
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize(("hits", "of"), [(6, 150), (1, 30), (100, 1000)])
def test_the_interval_covers(hits: int, of: int) -> None:
    """In at least 95 % of 2,000 draws, less three standard errors, the interval holds the share that was drawn from."""
    true = hits / of
    drawn = np.random.default_rng(5).binomial(of, true, 2000)
    intervals = {int(each): Proportion(int(each), of) for each in set(drawn)}

    covered = np.mean([intervals[int(each)].low <= true <= intervals[int(each)].high for each in drawn])

    assert covered >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 2000)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_fishers_test_is_scipys(hits: int, misses: int, other_hits: int, other_misses: int) -> None:
    """The one-sided p-value, of any table of counts."""
    expected = stats.fisher_exact([[hits, misses], [other_hits, other_misses]], alternative="greater").pvalue

    found = fisher_greater(hits, hits + misses, other_hits, other_hits + other_misses)

    assert found == pytest.approx(expected, rel=1e-8, abs=1e-13)


def test_fishers_test_of_many_calls() -> None:
    """Millions of calls: as scipy, without overflow."""
    table = [[20_500, 979_500], [2_000, 98_000]]

    found = fisher_greater(20_500, 1_000_000, 2_000, 100_000)

    assert found == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue, rel=1e-6)


@pytest.mark.parametrize(
    ("hits", "of", "text"),
    [
        (41, 1000, "4.1 % (95 % 3.0 to 5.5 %)"),
        (0, 600, "0.0 % (95 % 0.0 to 0.61 %)"),
        (600, 600, "100.0 % (95 % 99.4 to 100.0 %)"),
    ],
)
def test_a_share_reads_as_a_sentence(hits: int, of: int, text: str) -> None:
    """The share in percent with its interval."""
    assert str(Proportion(hits, of)) == text
