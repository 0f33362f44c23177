"""Metrics read as Prometheus would."""

from __future__ import annotations

import math

import pytest

from infermesh.cli.scrape import quantile, scrape, traffic
from infermesh.telemetry import Metrics, TelemetryServer

BUCKETS = [(0.01, 50.0), (0.1, 90.0), (1.0, 100.0), (math.inf, 100.0)]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.25, 0.005), (0.5, 0.01), (0.7, 0.055), (0.9, 0.1), (0.95, 0.55), (1.0, 1.0)]
)
def test_quantile_is_linear_within_a_bucket(share, expected):
    """As PromQL's histogram_quantile."""
    assert quantile(share, BUCKETS) == pytest.approx(expected)


def test_quantile_above_the_last_bound_is_that_bound():
    """Nothing is known of values above the last finite bound."""
    assert quantile(0.99, [(0.1, 1.0), (math.inf, 100.0)]) == 0.1


def test_quantile_of_nothing():
    """An empty histogram has no quantiles."""
    assert math.isnan(quantile(0.5, []))
    assert math.isnan(quantile(0.5, [(0.1, 0.0), (math.inf, 0.0)]))


def test_traffic_of_a_service():
    """Calls are counted over all models, errors by their code."""
    metrics = Metrics("gateway")
    for _ in range(98):
        metrics.request("iris", "1", "stable", "OK", 0.0015)
    metrics.request("iris", "2", "canary", "OK", 0.2)
    metrics.request("iris", "", "", "UNAVAILABLE", 0.2)
    server = TelemetryServer("127.0.0.1", 0, metrics.registry, lambda: True)
    try:
        samples = scrape(f"127.0.0.1:{server.port}")
    finally:
        server.close()

    assert samples is not None
    busy = traffic(samples)
    assert (busy.requests, busy.errors) == (100, 1)
    assert 0.001 < busy.p50_s < 0.002
    assert 0.1 < busy.p99_s <= 0.25


def test_nobody_answers():
    """A service that is away has no metrics, and that is no error."""
    assert scrape("127.0.0.1:1") is None
