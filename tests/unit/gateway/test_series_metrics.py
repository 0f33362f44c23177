"""Series of the route table go with it: names that come and go leave nothing, and names that stay count on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from infermesh.call import Call
from infermesh.config import BreakerConfig
from infermesh.errors import MeshError, Unavailable
from infermesh.filters import Measured
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import Stack, stack
from infermesh.telemetry import Metrics
from services.gateway import series as series_module
from services.gateway.backends import Backend
from services.gateway.deadline_config import DeadlineConfig
from services.gateway.metrics import GatewayMetrics
from services.gateway.resilience import Resilience
from services.gateway.route_table import RouteTable
from services.gateway.routes import RoutesFile
from services.gateway.series import Counts, Series
from tests.unit.gateway.conftest import FakeBackend, settled

RELOADS = 500
CONSTANT = {"constant": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}]}}


def _file(
    model: str = "fraud", variant: str = "canary", shadow: str = "s", *, weight: int = 0, **more: Any
) -> RoutesFile:
    """One route with all that is counted by its names."""
    route = {
        "model": model,
        "backend": "one",
        "sticky": {"metadata": "x-card"},
        "variants": [{"name": "stable", "weight": 1}, {"name": variant, "weight": weight, "backend": "two"}],
        "shadows": [{"name": shadow, "fraction": 1, "backend": "two"}],
        "fallback": {"steps": [{"variant": variant}, CONSTANT]},
        **more,
    }
    return RoutesFile.model_validate({"routes": [route]})


class Away(FakeBackend):
    """Is never there; each failure is an error of its own, since one that is raised again keeps the frames of all its ways."""

    def variant(self, *, model: str = "", version: str = "") -> FakeBackend:
        return Away(self.name, model, version)

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        raise Unavailable("away")


class Gateway:
    """A table as the gateway has it, below what counts its calls; `one` fails, so that all else has something to do."""

    def __init__(self) -> None:
        self.metrics = Metrics("gateway")
        self.one, self.two = Away("one"), FakeBackend("two")
        observers = GatewayMetrics(self.metrics)
        resilience = Resilience(DeadlineConfig(), BreakerConfig.model_validate({"failures": 1}), observers)
        backends = {fake.name: Backend(fake.name, fake) for fake in (self.one, self.two)}
        self.table = RouteTable(_file(), backends, observers, resilience=resilience, draw=lambda: 0.0)
        self.metrics.label = self.table.label
        observers.standing(self.table.standing)
        self.stack: Stack = stack(Measured(self.metrics.request, self.table.label), service=self.table)

    async def ask(self, model: str = "fraud", variant: str = "") -> None:
        metadata = {"x-infermesh-variant": variant} if variant else {}
        with contextlib.suppress(MeshError):
            await self.stack.infer(pb.ModelInferRequest(model_name=model), Call(metadata=metadata))
        await settled()

    def series(self) -> set[tuple[str, ...]]:
        """The labels of what is counted by names of routes, without the buckets of histograms."""
        return {
            (sample.name, *sorted(sample.labels.values()))
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if "model" in sample.labels and "le" not in sample.labels
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"service": "gateway", **labels})


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


async def test_hundreds_of_reloads_with_new_names_leave_as_many_series_as_one(gateway: Gateway) -> None:
    """Models, variants and shadows have new names each time, and calls of each kind; what a scrape tells stays as long."""
    sizes, names = [], set()
    for number in range(RELOADS):
        model = f"m{number}"
        gateway.table.swap(_file(model, f"v{number}", f"s{number}"))
        for _ in range(2):
            await gateway.ask(model)
        await gateway.ask(model, f"v{number}")
        await gateway.ask(f"{model}-explainer")
        if number % 125 == 124:
            gc.collect()  # an error that was caught and its frame hold each other, and the table that they were in
            gateway.series()  # tells once more what has gone
            told = gateway.series()
            sizes.append(len(told))
            names = {name for name, *_ in told}

    assert set(sizes) == {sizes[0]}
    assert sizes[0] < 60
    assert {
        "infermesh_requests_total",
        "infermesh_request_seconds_count",
        "infermesh_gateway_picks_total",
        "infermesh_gateway_sticky_misses_total",
        "infermesh_gateway_shadow_total",
        "infermesh_gateway_breaker_total",
        "infermesh_gateway_no_time_total",
        "infermesh_gateway_fallback_total",
        "infermesh_gateway_variant_share",
    } <= names


async def test_reloads_that_nobody_scrapes_are_bounded_too(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what waits to be told once more, the oldest goes."""
    monkeypatch.setattr(series_module, "MAX_GONE", 10)
    for number in range(100):
        gateway.table.swap(_file(f"m{number}"))
        await gateway.ask(f"m{number}")

    told = [sample for sample in gateway.series() if sample[0] == "infermesh_gateway_shadow_total" and "shed" in sample]

    assert 10 <= len(told) <= 11


async def test_names_that_stay_count_on(gateway: Gateway) -> None:
    """A reload that changes something else sets nothing back to zero, and takes nothing away."""
    await gateway.ask()
    before = gateway.series()

    gateway.table.swap(_file())
    after = gateway.series()
    await gateway.ask()

    assert after == before
    assert gateway.value("infermesh_gateway_picks_total", model="fraud", variant="stable", by="weight") == 2
    assert gateway.value("infermesh_gateway_shadow_total", model="fraud", shadow="s", outcome="mirrored") == 2
    assert gateway.value("infermesh_gateway_breaker_total", model="fraud", variant="stable", event="opened") == 1
    step = {"model": "fraud", "step": "variant:canary", "outcome": "answered"}
    assert gateway.value("infermesh_gateway_fallback_total", **step) == 2


async def test_a_variant_that_its_breaker_leaves_alone_has_no_share(gateway: Gateway) -> None:
    """What is told is what calls find; where no other has weight, the share stays."""

    def told() -> list[float | None]:
        named = [("stable", "one"), ("canary", "two")]
        labels = [{"model": "fraud", "variant": variant, "backend": backend} for variant, backend in named]
        return [gateway.value("infermesh_gateway_variant_share", version="", **each) for each in labels]

    await gateway.ask()  # which the fallback answers: its breaker is open now
    assert told() == [1.0, 0.0]
    gateway.table.swap(_file(weight=3))
    assert told() == [0.0, 1.0]

    gateway.table.swap(_file(weight=3, when_dead="fail"))
    assert told() == [0.25, 0.75]


async def test_a_variant_goes_and_its_model_stays(gateway: Gateway) -> None:
    """What is counted of the others is as it was; the variant that is back begins at zero."""
    await gateway.ask()
    await gateway.ask(variant="canary")
    picks = {"model": "fraud", "variant": "canary", "by": "header"}
    answered = {"model": "fraud", "version": "7", "variant": "canary", "code": "OK"}
    assert gateway.value("infermesh_gateway_picks_total", **picks) == 1
    assert gateway.value("infermesh_requests_total", **answered) == 1
    assert gateway.value("infermesh_requests_total", **answered | {"variant": "fallback"}) == 1

    gateway.table.swap(_file(variant="other"))

    assert gateway.value("infermesh_gateway_picks_total", **picks) is None
    assert gateway.value("infermesh_requests_total", **answered) is None
    assert gateway.value("infermesh_gateway_picks_total", model="fraud", variant="stable", by="weight") == 1
    gateway.table.swap(_file())
    await gateway.ask(variant="canary")
    assert gateway.value("infermesh_requests_total", **answered) == 1


async def test_a_shadow_is_told_once_more_with_its_last_copy(gateway: Gateway) -> None:
    """A copy that ends after its route has gone is still counted, for one scrape."""
    gateway.two.state["wait"] = go_on = asyncio.Event()
    asking = asyncio.ensure_future(gateway.ask(variant="stable"))
    await settled()

    gateway.table.swap(_file("iris"))
    go_on.set()
    await asking
    await settled()

    copies = {"model": "fraud", "shadow": "s", "outcome": "mirrored"}
    assert gateway.value("infermesh_gateway_shadow_total", **copies) == 1
    assert gateway.value("infermesh_gateway_shadow_total", **copies) is None


async def test_a_call_that_ends_after_its_variant_has_gone_brings_nothing_back(gateway: Gateway) -> None:
    """It is counted under its model, and under none when that has gone too."""
    gateway.two.state["wait"] = go_on = asyncio.Event()
    asking = asyncio.ensure_future(gateway.ask(variant="canary"))
    await settled()

    gateway.table.swap(_file(variant="other"))
    go_on.set()
    await asking

    requests = [each for each in gateway.series() if each[0] == "infermesh_requests_total"]
    assert requests == [("infermesh_requests_total", "", "", "OK", "fraud", "gateway")]


def _series(registry: CollectorRegistry) -> Series:
    return Series(registry, "gateway", "infermesh_things", "Things.", ("model",), ("event",))


def test_who_counts_for_the_same_shares_the_counts() -> None:
    """Also who comes before the last one has been told once more."""
    registry = CollectorRegistry()
    things = _series(registry)
    one, other = things.counts("m"), things.counts("m")
    one.add("made")
    other.add("made")
    del one, other

    again: Counts = things.counts("m")
    again.add("made")

    labels = {"service": "gateway", "model": "m", "event": "made"}
    assert registry.get_sample_value("infermesh_things_total", labels) == 3
    assert registry.get_sample_value("infermesh_things_total", labels) == 3


def test_a_second_metric_of_the_name_is_refused() -> None:
    """The registry knows it before anything is counted."""
    registry = CollectorRegistry()
    _series(registry)

    with pytest.raises(ValueError, match="Duplicated timeseries"):
        _series(registry)
