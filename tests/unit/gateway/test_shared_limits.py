"""Four gateways' limits in processes of their own, with one Valkey."""

from __future__ import annotations

import pytest

from benchmarks.rate_limit_exact import most_over, run
from tests.unit.gateway.limits import prefix

RATE, BURST, SECONDS = 200.0, 50, 1.0


def test_four_processes_admit_no_more_than_one_limit(redis_url: str) -> None:
    """Four gateways with clocks that are years apart, each asking all the time: of any time t they admit at most burst + rate × t
    calls together, and what is due is admitted."""
    said = run(redis_url, prefix(), rate=RATE, burst=BURST, seconds=SECONDS)

    spans = [(asked, answered) for each in said for asked, answered in each["spans"]]
    assert [each["failures"] for each in said] == [[]] * 4
    assert most_over(spans, RATE, BURST) <= 0
    assert len(spans) > BURST + RATE * SECONDS / 4
    assert all(each["outcomes"]["remembered"] > 0 for each in said)


@pytest.mark.parametrize(
    ("times", "over"), [([0.0, 0.0, 0.1], 0.0), ([0.0, 0.0, 0.0], 1.0), ([0.0, 0.0, 5.0, 5.0, 5.0], 1.0), ([9.0], -1.0)]
)
def test_a_limit_that_is_not_kept_is_seen(times: list[float], over: float) -> None:
    """The check of the test above can fail: a call too many is found wherever it is."""
    assert most_over([(time, time) for time in times], 10, 2) == pytest.approx(over)
