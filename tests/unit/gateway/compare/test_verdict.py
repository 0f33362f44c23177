"""Tests of the correction for many tests, and of the words of a verdict."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.compare.verdict import holm, verdict
from services.gateway.compare_config import CompareConfig


def test_holm_as_in_the_books() -> None:
    """The smallest of four times four, the next times three, never less than the one before."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})

    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


@settings(deadline=None)
@given(st.dictionaries(st.integers(), st.floats(0, 1), max_size=20))
def test_holm_lies_between_one_test_and_bonferroni(chances: dict[int, float]) -> None:
    """No adjusted p-value is smaller than its own, or larger than it times the number of tests; their order stays."""
    found = holm(chances)

    assert all(chances[key] <= found[key] <= max(found[key], 0) <= 1 for key in chances)
    assert min(found.values(), default=1) == min(1, len(chances) * min(chances.values(), default=1)) or not chances
    assert all(found[a] <= found[b] for a in chances for b in chances if chances[a] < chances[b])


@pytest.mark.parametrize(
    ("pairs", "repeats", "text"),
    [
        (40, 20, "not enough pairs yet: 40 of 200"),
        (200, 3, "not enough repeats yet: 3 of 20"),
        (0, 0, "not enough pairs yet: 0 of 200; not enough repeats yet: 0 of 20"),
    ],
)
def test_a_verdict_says_what_is_missing(pairs: int, repeats: int, text: str) -> None:
    """And nothing else."""
    found = verdict(CompareConfig(), pairs, pairs, repeats, [], [], tests=0)

    assert (found.state, found.text) == ("not enough", text)


def test_without_findings_it_is_not_said_that_there_is_no_difference() -> None:
    """Only that none was above the noise, in how many pairs; without repeats, that the noise is not known."""
    held = verdict(CompareConfig(), 2000, 2000, 200, [], [], tests=10)
    blind = verdict(CompareConfig(repeat=0), 2000, 2000, 0, [], [], tests=3)

    assert held.text.startswith("nothing above the noise floor in 2,000 pairs (200 repeats)")
    assert "the noise floor is not known" in blind.text
    assert (held.state, blind.state) == ("within noise", "nothing seen")
