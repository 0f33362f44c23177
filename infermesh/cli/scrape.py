"""What a service's HTTP port says: `/metrics`, read as Prometheus would, and `/ready`."""

from __future__ import annotations

import http.client
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Samples", "Traffic", "quantile", "says_ready", "scrape", "traffic"]

TIMEOUT_S = 1.0

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Samples:
    """The samples of one scrape: by name, a list of (labels, value)."""

    by_name: Mapping[str, list[tuple[Labels, float]]] = field(default_factory=dict)

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name that have these labels; 0 without any."""
        return sum(value for found, value in self.all(name) if labels.items() <= found.items())

    def all(self, name: str) -> list[tuple[Labels, float]]:
        return self.by_name.get(name, [])


@dataclass(frozen=True)
class Traffic:
    """Inference calls of one service since it started. Quantiles are in seconds, NaN before the first call."""

    requests: int
    errors: int
    p50_s: float
    p99_s: float


def scrape(address: str) -> Samples | None:
    """The metrics of `host:port`; None when nobody answers in time."""
    text = _get(address, "/metrics", TIMEOUT_S)
    if text is None:
        return None
    by_name: dict[str, list[tuple[Labels, float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            by_name.setdefault(sample.name, []).append((sample.labels, sample.value))
    return Samples(by_name)


def says_ready(address: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether `/ready` of `host:port` answers with 200; false when nobody answers in time."""
    return _get(address, "/ready", timeout_s) is not None


def traffic(samples: Samples) -> Traffic:
    """How many calls there were, and how long they took, over all models."""
    requests = samples.total("infermesh_requests_total")
    good = samples.total("infermesh_requests_total", code="OK")
    buckets: dict[float, float] = {}
    for labels, value in samples.all("infermesh_request_seconds_bucket"):
        bound = float(labels["le"])
        buckets[bound] = buckets.get(bound, 0.0) + value
    return Traffic(int(requests), int(requests - good), quantile(0.5, buckets.items()), quantile(0.99, buckets.items()))


def quantile(share: float, buckets: Iterable[tuple[float, float]]) -> float:
    """The quantile of a histogram with cumulative buckets (upper bound, count), linear within a bucket: PromQL's
    `histogram_quantile`. NaN for an empty one; a quantile above the last finite bound is that bound."""
    ordered = sorted(buckets)
    if not ordered or ordered[-1][1] <= 0:
        return math.nan
    rank = share * ordered[-1][1]
    low_bound = low_count = 0.0
    for bound, count in ordered:
        if count >= rank and count > low_count:
            if math.isinf(bound):
                return low_bound
            return low_bound + (bound - low_bound) * (rank - low_count) / (count - low_count)
        if not math.isinf(bound):
            low_bound = bound
        low_count = count
    return low_bound


def _get(address: str, path: str, timeout_s: float) -> str | None:
    """The text of a 200; None for any other status, or none in time."""
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        return text if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
