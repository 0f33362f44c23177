"""What a model version counts."""

from __future__ import annotations

import pytest

from services.predictor import statistics
from services.predictor.statistics import Statistics


def test_times_of_a_batch_are_each_members_in_the_totals_and_one_run_beside() -> None:
    """Triton's clients divide compute time by its count to learn what a request spent; runs and rows are told apart."""
    counted = Statistics()

    for _ in range(3):
        counted.waited(0.5)
        counted.answered(2, read_s=0.25, write_s=0.125, total_s=1.0)
    counted.executed(requests=3, rows=6, seconds=2.0)

    told = counted.message("m", "1")
    totals = told.inference_stats
    assert (told.inference_count, told.execution_count) == (6, 1)
    assert (totals.compute_infer.count, totals.compute_infer.ns) == (3, 6 * 10**9)
    assert (totals.queue.count, totals.queue.ns) == (3, 15 * 10**8)
    assert (totals.compute_input.ns, totals.compute_output.ns) == (750_000_000, 375_000_000)
    assert (totals.success.count, totals.success.ns) == (3, 3 * 10**9)
    assert [(b.batch_size, b.compute_infer.count, b.compute_infer.ns) for b in told.batch_stats] == [(6, 1, 2 * 10**9)]
    assert counted.batch_requests.sum == 3


def test_a_cache_hit_is_a_success_that_did_not_run() -> None:
    """It is among those that waited, for nothing, and its rows are not counted as inferred."""
    counted = Statistics()

    counted.cache_miss.add(0.001)
    counted.waited(0.0)
    counted.executed(1, 1, 0.1)
    counted.answered(1, 0.0, 0.0, 0.1)
    counted.hit(0.001, 0.002)

    told = counted.message("m", "1")
    totals = told.inference_stats
    assert (totals.success.count, totals.queue.count, totals.compute_infer.count) == (2, 2, 1)
    assert (totals.cache_hit.count, totals.cache_miss.count) == (1, 1)
    assert (told.inference_count, told.execution_count) == (1, 1)


def test_failures_are_told_by_code_and_cancelled_ones_apart() -> None:
    """`fail` has all of them; the statistics of the response have those that were cancelled beside the others."""
    counted = Statistics()

    for code in ("CANCELLED", "INVALID_ARGUMENT", "CANCELLED"):
        counted.begun += 1
        counted.failed(code, 0.5)

    response = counted.message("m", "1").response_stats["0"]
    assert {code: total.count for code, total in counted.failures.items()} == {"CANCELLED": 2, "INVALID_ARGUMENT": 1}
    assert (counted.fail.count, response.fail.count, response.cancel.count) == (3, 1, 2)
    assert counted.in_flight == 0


def test_sizes_of_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound a size is counted under the next power of two, and no run is lost."""
    monkeypatch.setattr(statistics, "MAX_SIZES", 4)
    counted = Statistics()

    for rows in range(200):
        counted.executed(1, rows, 0.1)
    counted.executed(1, 2**62 + 1, 0.1)

    told = counted.message("m", "1")
    assert [b.batch_size for b in told.batch_stats] == [0, 1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 2**63]
    assert sum(b.compute_infer.count for b in told.batch_stats) == told.execution_count == 201
