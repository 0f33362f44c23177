"""A histogram for values that come with every call."""

from __future__ import annotations

import math
import threading

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from infermesh.telemetry.histogram import Histogram


class One(Collector):
    def __init__(self, histogram: Histogram) -> None:
        self.histogram = histogram

    def collect(self) -> list[HistogramMetricFamily]:
        family = HistogramMetricFamily("seconds", "Seconds.", labels=["model"])
        self.histogram.put_into(family, ["m"])
        return [family]


def samples(histogram: Histogram) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(One(histogram))
    (family,) = text_string_to_metric_families(generate_latest(registry).decode())
    return {s.labels.get("le", s.name): s.value for s in family.samples if s.labels["model"] == "m"}


def test_a_value_is_in_the_first_bucket_whose_bound_is_not_below_it() -> None:
    """`le` means less or equal: a value that is a bound belongs to it; buckets are cumulative and end with +Inf."""
    histogram = Histogram((0.1, 1.0))

    for value in (0.0, 0.1, 0.5, 1.0, 7.0):
        histogram.add(value)

    assert samples(histogram) == {"0.1": 2, "1.0": 4, "+Inf": 5, "seconds_count": 5, "seconds_sum": 8.6}
    assert histogram.count == 5


def test_without_a_value_all_is_zero() -> None:
    """A series is there from the start, so that a rate can be told from its first scrape on."""
    assert set(samples(Histogram((1.0,))).values()) == {0.0}


def test_what_is_past_every_bound_is_counted() -> None:
    """Infinity too."""
    histogram = Histogram((1, 2))

    histogram.add(math.inf)

    assert samples(histogram)["+Inf"] == 1


def test_a_scrape_beside_the_loop_sees_whole_buckets() -> None:
    """While one thread adds, another reads: cumulative buckets never fall, and the count is that of the last bucket."""
    histogram = Histogram((1, 2, 3))
    seen: list[dict[str, float]] = []

    def scrape() -> None:
        seen.extend(samples(histogram) for _ in range(100))

    reader = threading.Thread(target=scrape)
    reader.start()
    for number in range(50_000):
        histogram.add(number % 5)
    reader.join()

    for each in seen:
        assert each["1.0"] <= each["2.0"] <= each["3.0"] <= each["+Inf"] == each["seconds_count"]
