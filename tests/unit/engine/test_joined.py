"""Metrics of several processes in one scrape."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from infermesh.engine import joined
from infermesh.engine.joined import RULES, Gone, Joined, Told

ROOT = Path(__file__).parents[3]


def process(calls: int, in_flight: int = 0, ready: int = 1, seconds: float = 0.1) -> str:
    """What one process tells."""
    registry = CollectorRegistry()
    Counter("infermesh_requests", "Calls.", ("code",), registry=registry).labels("OK").inc(calls)
    Gauge("infermesh_model_in_flight", "Open.", registry=registry).set(in_flight)
    Gauge("infermesh_ready", "Ready.", registry=registry).set(ready)
    Gauge("infermesh_model_file_bytes", "Size.", ("model",), registry=registry).labels('a"\\b').set(1000)
    Histogram("infermesh_request_seconds", "Latency.", buckets=(0.5, 1.0), registry=registry).observe(seconds)
    return generate_latest(registry).decode()


def scrape(texts: list[str], gone: Gone | None = None, leaving: Sequence[str] = ()) -> str:
    registry = CollectorRegistry()
    registry.register(Joined(lambda: Told(texts, leaving, (gone or Gone()).families)))
    return generate_latest(registry).decode()


def test_one_process_is_told_as_it_is() -> None:
    """Nothing is lost or renamed on the way."""
    text = process(3)
    kept = [line for line in text.splitlines() if "_created" not in line]

    assert [line for line in scrape([text]).splitlines() if "_created" not in line] == kept


def test_counters_and_histograms_are_added_up() -> None:
    """Bucket by bucket."""
    text = scrape([process(3, seconds=0.1), process(4, seconds=0.7)])

    assert 'infermesh_requests_total{code="OK"} 7.0' in text
    assert 'infermesh_request_seconds_bucket{le="0.5"} 1.0' in text
    assert 'infermesh_request_seconds_bucket{le="1.0"} 2.0' in text
    assert "infermesh_request_seconds_count 2.0" in text


def test_a_gauge_is_joined_by_its_rule() -> None:
    """What is open is added up, one process that is not ready shows, and a size that all have is told once."""
    text = scrape([process(0, in_flight=2, ready=1), process(0, in_flight=3, ready=0)])

    assert "infermesh_model_in_flight 5.0" in text
    assert "infermesh_ready 0.0" in text
    assert 'infermesh_model_file_bytes{model="a\\"\\\\b"} 1000.0' in text


def test_a_process_that_leaves_has_what_it_counts_and_holds() -> None:
    """That it is not ready any more is not the service's trouble."""
    text = scrape([process(3, in_flight=1)], leaving=[process(4, in_flight=2, ready=0)])

    assert 'infermesh_requests_total{code="OK"} 7.0' in text
    assert "infermesh_model_in_flight 3.0" in text
    assert "infermesh_ready 1.0" in text


def test_what_an_ended_process_has_counted_stays_counted() -> None:
    """A sum never falls, or a rate would show a burst of calls that nobody made; its gauges are gone with it."""
    gone = Gone()
    before = scrape([process(3), process(4, in_flight=9)], gone)

    gone.add(process(4, in_flight=9))
    after = scrape([process(3)], gone)

    total = 'infermesh_requests_total{code="OK"} 7.0'
    assert total in before and total in after
    assert "infermesh_model_in_flight 0.0" in after


def test_series_of_ended_processes_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is restarted for months under new labels does not grow."""
    monkeypatch.setattr(joined, "MAX_GONE", 10)
    gone = Gone()

    for number in range(50):
        gone.add(f'# TYPE a_total counter\na_total{{model="{number}"}} 1.0\n')

    kept = [sample.labels["model"] for family in gone.families for sample in family.samples]
    assert kept == [str(number) for number in range(40, 50)]


def test_every_rule_is_of_a_gauge_that_there_is() -> None:
    """A name that is written wrong would be joined by the wrong rule, and nobody would see it."""
    text = "\n".join(
        file.read_text()
        for part in ("infermesh", "services")
        for file in (ROOT / part).rglob("*.py")
        if "engine" not in file.parts
    )
    text += "\n".join(
        f"infermesh_shadow_{name}"
        for name in re.findall(r'"(\w+)"', (ROOT / "services/gateway/compare_metrics.py").read_text())
    )

    ours = [name for name in RULES if name.startswith("infermesh_") and name != "infermesh_engine_processes"]

    assert ours and [name for name in ours if name not in text] == []
