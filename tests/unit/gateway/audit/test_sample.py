"""Samples by request id."""

from __future__ import annotations

from infermesh.sample import is_sampled

IDS = [f"request-{number}" for number in range(100_000)]


def test_a_sample_has_its_share():
    """Of 100,000 ids in a row: 10 % within five standard deviations of a fair draw (475)."""
    assert abs(sum(is_sampled(each, 0.1) for each in IDS) - 10_000) < 475


def test_a_larger_sample_has_all_of_a_smaller_one():
    assert all(is_sampled(each, 0.2) for each in IDS[:20_000] if is_sampled(each, 0.1))


def test_all_and_nothing_are_exact():
    assert all(is_sampled(each, 1.0) for each in IDS[:1000])
    assert not any(is_sampled(each, 0.0) for each in IDS[:1000])
    assert is_sampled("\ud800", 0.5) in (True, False)  # a lone surrogate is an id like any other
