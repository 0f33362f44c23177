"""Metrics in Prometheus' form."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

import infermesh
from infermesh.telemetry import Metrics, metrics


def text_of(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_a_call_is_counted_and_timed_under_what_answered() -> None:
    """One call adds one to its outcome and its seconds to the latency of its model, version and variant."""
    counted = Metrics("predictor")

    counted.request("iris", "2", "canary", "OK", 0.004)
    counted.request("iris", "2", "canary", "OK", 0.004)
    counted.request("iris", "", "canary", "NOT_FOUND", 0.1)

    text = text_of(counted)
    labels = 'model="iris",service="predictor",variant="canary",version='
    assert f'infermesh_requests_total{{code="OK",{labels}"2"}} 2.0' in text
    assert f'infermesh_requests_total{{code="NOT_FOUND",{labels}""}} 1.0' in text
    assert f'infermesh_request_seconds_bucket{{le="0.003",{labels}"2"}} 0.0' in text
    assert f'infermesh_request_seconds_bucket{{le="0.005",{labels}"2"}} 2.0' in text


def test_labels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound calls are counted under empty labels, and none is lost."""
    monkeypatch.setattr(metrics, "MAX_CHILDREN", 10)
    counted = Metrics("gateway")

    for number in range(50):
        counted.request(f"m{number}", "1", "", "OK", 0.001)
    counted.request("m0", "1", "", "OK", 0.001)

    lines = [line for line in text_of(counted).splitlines() if line.startswith("infermesh_requests_total{")]
    assert len(lines) <= 12
    assert sum(float(line.split()[-1]) for line in lines) == 51
    assert 'infermesh_requests_total{code="OK",model="m0",service="gateway",variant="",version="1"} 2.0' in lines
    assert 'infermesh_requests_total{code="OK",model="",service="gateway",variant="",version=""} 40.0' in lines


def test_versions_that_a_backend_makes_up_take_no_labels_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a number of them, and past a length, calls of the variant are counted without a version."""
    monkeypatch.setattr(metrics, "MAX_OF_VARIANT", 5)
    counted = Metrics("gateway")

    for number in range(50):
        counted.request("m", str(number), "liar", "OK", 0.001)
    counted.request("m", "9" * 65, "long", "OK", 0.001)
    counted.request("m", "1", "stable", "OK", 0.001)

    value = counted.registry.get_sample_value
    told = {"service": "gateway", "model": "m", "code": "OK"}
    assert value("infermesh_requests_total", {**told, "version": "4", "variant": "liar"}) == 1
    assert value("infermesh_requests_total", {**told, "version": "", "variant": "liar"}) == 45
    assert value("infermesh_requests_total", {**told, "version": "", "variant": "long"}) == 1
    assert value("infermesh_requests_total", {**told, "version": "1", "variant": "stable"}) == 1


def test_what_is_forgotten_has_no_series() -> None:
    """A variant goes alone while its model is known, else with all of its model; other models stay."""
    counted, known = Metrics("gateway"), {"m", "other"}
    counted.label = lambda model: model if model in known else ""
    for model in sorted(known):
        counted.request(model, "1", "stable", "OK", 0.1)
        counted.request(model, "2", "canary", "OK", 0.1)
        counted.request(model, "", "", "UNAUTHENTICATED", 0.1)

    counted.forget("m", "canary")
    text = text_of(counted)
    assert text.count("infermesh_requests_total{") == 5
    assert text.count("infermesh_request_seconds_count{") == 5
    known.remove("m")
    counted.forget("m", "stable")

    text = text_of(counted)
    assert 'model="m"' not in text
    assert text.count("infermesh_requests_total{") == 3


def test_a_late_call_of_what_is_forgotten_has_no_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the name is expected again; how many names are kept in mind has a bound."""
    monkeypatch.setattr(metrics, "MAX_FORGOTTEN", 2)
    counted = Metrics("gateway")
    counted.label = lambda model: model
    for variant in ("a", "b", "c"):
        counted.forget("m", variant)
    counted.expect("m", "b")

    for variant in ("a", "b", "c"):
        counted.request("m", "1", variant, "OK", 0.1)

    value = counted.registry.get_sample_value
    told = {"service": "gateway", "model": "m", "code": "OK"}
    found = [value("infermesh_requests_total", {**told, "version": "1", "variant": v}) for v in ("a", "b", "c")]
    assert found == [1, 1, None]
    assert value("infermesh_requests_total", {**told, "version": "", "variant": ""}) == 1


def test_a_service_tells_its_build_and_readiness() -> None:
    """And what the process uses."""
    counted = Metrics("predictor")
    counted.ready.set(True)

    text = text_of(counted)

    assert f'infermesh_build_info{{service="predictor",version="{infermesh.__version__}"}} 1.0' in text
    assert 'infermesh_ready{service="predictor"} 1.0' in text
    assert "process_resident_memory_bytes" in text


def test_a_part_adds_its_own_with_the_service_first() -> None:
    """Counter, gauge and histogram of a service's parts carry the service as their first label."""
    counted = Metrics("gateway")

    counted.counter("infermesh_shadow_total", "Copies.", "outcome").labels("gateway", "shed").inc()
    counted.gauge("infermesh_breaker_open", "1 while open.").labels("gateway").set(1)
    counted.histogram("infermesh_lookup_seconds", "Lookups.", buckets=(0.1, 1)).labels("gateway").observe(0.5)

    text = text_of(counted)
    assert 'infermesh_shadow_total{outcome="shed",service="gateway"} 1.0' in text
    assert 'infermesh_breaker_open{service="gateway"} 1.0' in text
    assert 'infermesh_lookup_seconds_bucket{le="1.0",service="gateway"} 1.0' in text


def test_two_services_in_one_process_have_a_registry_each() -> None:
    """The same graph can run as one process."""
    one, two = Metrics("gateway"), Metrics("predictor")

    one.request("m", "1", "", "OK", 0.1)

    assert "infermesh_requests_total{" in text_of(one)
    assert "infermesh_requests_total{" not in text_of(two)


def test_what_the_server_refuses_itself_is_counted_without_a_time() -> None:
    """Under the model's name where it is known, else under none; its latency would only hide that of real calls."""
    counted = Metrics("predictor")
    counted.refused("iris", "UNAVAILABLE")
    counted.label = {"iris": "iris"}.get  # type: ignore[assignment]

    counted.refused("iris", "RESOURCE_EXHAUSTED")

    text = text_of(counted)
    rest = 'service="predictor",variant="",version=""}'
    assert f'infermesh_requests_total{{code="UNAVAILABLE",model="",{rest} 1.0' in text
    assert f'infermesh_requests_total{{code="RESOURCE_EXHAUSTED",model="iris",{rest} 1.0' in text
    assert f'infermesh_request_seconds_count{{model="iris",{rest} 0.0' in text


def test_a_second_metric_of_the_same_name_is_refused() -> None:
    """Also beside those that a collector of ours tells."""
    counted = Metrics("predictor")

    with pytest.raises(ValueError, match="Duplicated timeseries"):
        counted.counter("infermesh_requests_total", "Again.")
