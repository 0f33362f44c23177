"""Tests of shifts of distributions: bins, the PSI with its test, and mean differences."""

from __future__ import annotations

import json
import math
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from services.gateway.compare.psi import PsiTest, psi, psi_test
from services.gateway.compare.shift import MAX_LABELS, ColumnShift, LabelShift, Mean
from services.gateway.compare.shifts import AT_ONCE, Shifts
from services.gateway.compare_config import CompareConfig

FLOATS = st.floats(width=32)


def test_psi_is_the_sum_of_its_bins() -> None:
    """Two bins, worked by hand: half a count is added to each."""
    p, q = np.array([30.5, 70.5]) / 101, np.array([50.5, 50.5]) / 101

    found = psi(np.array([30.0, 70.0]), np.array([50.0, 50.0]))

    assert float(found) == pytest.approx(sum((p - q) * np.log(p / q)))


@pytest.mark.parametrize(("up", "down"), [(7, 3), (12, 2), (40, 20), (5, 5)])
def test_with_two_bins_the_test_is_the_sign_test(up: int, down: int) -> None:
    """Pairs that changed bins are the flips of a coin: p is the two-sided one of a binomial, within Monte Carlo error."""
    expected = stats.binomtest(up, up + down).pvalue

    found = psi_test(np.array([[100, up], [down, 100]]), np.random.default_rng(1), 9999)

    assert found.p == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 9999))


def test_many_bins_agree_with_stuart_and_maxwell() -> None:
    """With many pairs in three bins the p-value is near that of the χ² of marginal homogeneity, its asymptotic relative."""
    table = np.array([[400, 60, 25], [42, 500, 55], [33, 70, 300]])
    apart = (table.sum(1) - table.sum(0))[:2]
    spread = (np.diag(table.sum(1) + table.sum(0)) - table - table.T)[:2, :2]
    expected = stats.chi2.sf(apart @ np.linalg.solve(spread, apart), 2)

    found = psi_test(table, np.random.default_rng(2), 9999)

    assert found.p == pytest.approx(expected, abs=0.03)


def test_pairs_that_never_change_bins_are_no_shift() -> None:
    """Every redraw is as large as the PSI of 0: p is 1."""
    found = psi_test(np.diag([5, 9, 0, 3]), np.random.default_rng(0), 99)

    assert (found.psi, found.p) == (0, 1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=50, max_size=80), st.randoms(use_true_random=False))
def test_bins_do_not_tell_who_answered_what(pairs: list[tuple[float, float]], coin: Random) -> None:
    """Swapped pairs have the same bins and the same counts of each pair of bins: that is what makes the test exact."""
    swapped = [pair if coin.random() < 0.5 else pair[::-1] for pair in pairs]

    one, other = (_filled(each, bin_from=50) for each in (pairs, swapped))

    assert one.edges == other.edges
    first, second = one.table(), other.table()
    assert first is not None and second is not None
    assert (first + first.T == second + second.T).all()
    assert first.sum() == len(pairs)


def test_there_are_no_bins_before_there_are_enough_pairs() -> None:
    """The table is None until the pairs that make the bins are there; then they are counted in it too."""
    shift = _filled([(float(at), float(at)) for at in range(49)], bin_from=50)
    before = shift.table()

    shift.add(49.0, 49.0)

    after = shift.table()
    assert before is None
    assert after is not None
    assert after.trace() == 50
    assert len(shift.edges or ()) == 9


def test_a_value_that_is_most_of_all_has_a_bin_of_its_own() -> None:
    """95 % zeros, and a shadow that says small values instead: the bins tell."""
    numbers = Random(3)
    pairs = [(0.0, 0.001 if numbers.random() < 0.1 else 0.0) for _ in range(400)]

    table = _filled(pairs, bin_from=400).table()

    assert table is not None
    assert psi_test(table, np.random.default_rng(0), 999).p == 0.001


def test_nan_and_infinities_have_bins() -> None:
    """NaN has the last one, infinities the outermost ones; the mean is of finite differences."""
    shift = _filled([(float(at % 10), float(at % 10)) for at in range(50)], bin_from=50)

    shift.add(math.nan, math.inf)
    shift.add(-math.inf, 1.0)

    table = shift.table()
    assert table is not None
    assert table[-1, -2] == 1
    assert table[0].sum() > table[0, 0] - 1
    assert shift.mean.count == 50


def test_labels_past_the_bound_share_a_place() -> None:
    """Ten thousand labels take no more room than 32."""
    shift = LabelShift()
    for at in range(10_000):
        shift.add(f"label {at}", f"label {at}")

    assert shift.table().shape == (MAX_LABELS + 1, MAX_LABELS + 1)
    assert shift.table()[MAX_LABELS, MAX_LABELS] == 10_000 - MAX_LABELS


@settings(deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS), max_size=70))
def test_a_shift_is_kept(pairs: list[tuple[float, float]]) -> None:
    """What was written as JSON goes on from where it was, before there are bins and after."""
    made, labels = _filled(pairs, bin_from=50), LabelShift()
    for a, b in pairs:
        labels.add(str(a), str(b))

    again = ColumnShift.restored(json.loads(json.dumps(made.state(), allow_nan=False)), 10, 50)
    again_labels = LabelShift.restored(json.loads(json.dumps(labels.state(), allow_nan=False)))

    assert again.state() == made.state()
    assert again_labels.state() == labels.state()


@pytest.mark.parametrize("count", [10, 50, 500])
def test_the_mean_has_students_interval(count: int) -> None:
    """Mean and interval are those of scipy, from ten values on to 0.02 % of its width."""
    values = np.random.default_rng(4).normal(3, 2, count)
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))

    mean = Mean()
    for value in values:
        mean.add(float(value))

    assert mean.interval() == pytest.approx((low, high), rel=0, abs=2e-4 * (high - low))


def test_the_mean_of_one_value_may_be_anything() -> None:
    """Nothing is known of the spread."""
    mean = Mean()
    mean.add(1.0)

    assert mean.interval() == (-math.inf, math.inf)


def test_a_difference_that_the_sums_cannot_hold_leaves_them_alone() -> None:
    """1e200 squared is no number: it is left out, and the mean of the others stays."""
    mean = Mean()
    for value in (1.0, 1e200, 3.0):
        mean.add(value)

    assert (mean.count, mean.mean) == (2, 2.0)


def _filled(pairs: list[tuple[float, float]], bin_from: int) -> ColumnShift:
    shift = ColumnShift(10, bin_from)
    for a, b in pairs:
        shift.add(a, b)
    return shift


def test_redraws_end_when_the_answer_is_clear() -> None:
    """Columns of equal models take dozens of redraws and not thousands, and their p-values stay valid: at most alpha of them are
    at or under alpha."""
    numbers = np.random.default_rng(11)
    draws, low = [], 0
    for _ in range(400):
        table = np.zeros((6, 6), np.int64)
        np.add.at(table, tuple(numbers.integers(0, 6, (2, 150))), 1)
        found = psi_test(table, numbers, 1999, stop=20)
        draws.append(found.draws)
        low += found.p <= 0.05

    assert np.median(draws) <= 64
    assert low <= 33  # Binomial(400, 0.05) is over it once in 500


def test_a_column_is_tested_anew_when_it_has_grown() -> None:
    """By a tenth; a report on dozens of columns would take seconds each time otherwise."""
    table = np.array([[30, 5], [5, 30]])
    shifts = Shifts(CompareConfig(), Random(1))
    tables = iter([table, table + 1, table + 5])
    grown = SimpleNamespace(table=lambda: next(tables))
    shifts._columns = {("score", ""): grown}

    first, second, third = (shifts.tests(0, 1)["score", ""] for _ in range(3))

    assert second is first
    assert third is not first


def test_a_report_has_only_so_much_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 columns of many bins that all differ are tested over several reports; those that wait are told, and count as tests."""
    numbers = np.random.default_rng(5)
    tables = [np.triu(numbers.integers(5, 60, (22, 22))) for _ in range(64)]
    shifts = Shifts(CompareConfig(alpha=0.01), Random(1))
    shifts._columns = {(f"o{at}", ""): SimpleNamespace(table=lambda at=at: tables[at]) for at in range(64)}
    work = 0

    def counting(table: np.ndarray, draw: np.random.Generator, draws: int, *, stop: int = 0) -> PsiTest:
        nonlocal work
        work += draws * 231
        return PsiTest(1.0, 0, 0, draws)

    monkeypatch.setattr("services.gateway.compare.shifts.psi_test", counting)
    done = []
    while not done or len(shifts.untested):
        before = work
        done.append(len(shifts.tests(0, 100)))
        assert 0 < work - before < 2 * AT_ONCE + 231 * 20_000

    assert done[0] < 64
    assert done[-1] == 64
    assert len(done) < 64
    before = work
    shifts.tests(0, 100)
    assert work == before


def test_redraws_are_enough_for_a_finding() -> None:
    """With a small alpha and many tests the smallest p-value that there can be must still be under the corrected alpha."""
    shifts = Shifts(CompareConfig(alpha=0.01), Random(1))
    shifts._columns = {("score", ""): SimpleNamespace(table=lambda: np.array([[30, 50], [0, 30]]))}

    test = shifts.tests(0, 163)["score", ""]

    assert test.p <= 0.01 / 164
