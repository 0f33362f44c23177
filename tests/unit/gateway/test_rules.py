"""Tests of rules, aliases and weights that follow readiness, through the route table."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

import pytest

from infermesh.call import Call, Caller
from infermesh.errors import FailedPrecondition, Internal, NotFound, Unavailable
from infermesh.filters import Measured
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import stack
from infermesh.telemetry import Metrics
from services.gateway.metrics import GatewayMetrics
from services.gateway.readiness import ReadinessWatch
from services.gateway.route_table import MAX_GATEWAYS, RouteTable
from services.gateway.routes import RoutesFile

Z_999 = 3.2905  # of the normal distribution, two-sided 99.9 %
CARDS = [Call(metadata={"x-card": f"c-{number:05}"}) for number in range(4000)]

FRAUD: dict[str, Any] = {
    "model": "fraud",
    "aliases": ["fraud-latest", "score"],
    "backend": "one",
    "sticky": {"metadata": "x-card"},
    "variants": [
        {"name": "stable", "version": 1, "weight": 80},
        {"name": "canary", "version": 2, "weight": 15, "backend": "two"},
        {"name": "other", "version": 3, "weight": 5, "backend": "two"},
        {"name": "next", "version": 4, "weight": 0, "backend": "two"},
    ],
    "rules": [
        {"name": "beta", "when": {"tenant": "acme"}, "variant": "next"},
        {"when": {"parameters": {"amount": {"at_least": 1000}}}, "weights": {"stable": 1, "canary": 1}},
        {"when": {"tenant": ["acme", "globex"]}, "variant": "canary"},
    ],
}


def _of(tenant: str, **metadata: str) -> Call:
    return Call(caller=Caller(tenant=tenant), metadata=metadata)


def _variant(response: pb.ModelInferResponse) -> str:
    return response.parameters["infermesh_variant"].string_param


async def test_the_first_rule_that_holds_counts(make_mesh: Any, ask: Any) -> None:
    """It gives a variant, of weight 0 too; a call that no rule is about goes by the weights; a version comes before all."""
    mesh = make_mesh([FRAUD])

    by_first = await mesh.table.infer(ask("fraud"), _of("acme"))
    by_third = await mesh.table.infer(ask("fraud"), _of("globex"))
    explained = await mesh.table.infer(ask("fraud-explainer"), _of("acme"))
    by_none = await mesh.table.infer(ask("fraud"), Call())
    by_version = await mesh.table.infer(ask("fraud", "1"), _of("acme"))
    by_header = await mesh.table.infer(ask("fraud"), _of("acme", **{"x-infermesh-variant": "other"}))

    answers = (by_first, by_third, explained, by_none, by_version, by_header)
    assert list(map(_variant, answers)) == ["next", "canary", "next", "stable", "stable", "other"]
    assert mesh.picks("fraud", "next", "rule") == mesh.picks("fraud", "canary", "rule") == 1
    assert mesh.picks("fraud-explainer", "next", "rule") == 1


async def test_a_rule_may_have_weights_of_its_own(make_mesh: Any, ask: Any) -> None:
    """By them calls are split, and cards are sticky: half of them get each variant, and those of the canary keep it."""
    mesh = make_mesh([FRAUD])
    request = ask("fraud")
    large = ask("fraud", parameters={"amount": pb.InferParameter(double_param=1000.0)})

    ruled = [_variant(await mesh.table.infer(large, call)) for call in CARDS]
    others = [_variant(await mesh.table.infer(request, call)) for call in CARDS]

    assert abs(ruled.count("canary") - len(CARDS) / 2) < Z_999 * math.sqrt(len(CARDS) / 4)
    assert set(ruled) == {"stable", "canary"}
    assert all(now == "canary" for was, now in zip(others, ruled, strict=True) if was == "canary")


@pytest.mark.parametrize("name", ["fraud-latest", "score"])
async def test_an_alias_is_answered_under_its_own_name(make_mesh: Any, ask: Any, name: str) -> None:
    """The backend is asked for the model, its explainer likewise; the caller sees the name it used and is told the model's."""
    mesh = make_mesh([FRAUD | {"rules": [], "shadows": [{"name": "s", "fraction": 1, "backend": "explainer"}]}])
    card = CARDS[0]

    response = await mesh.table.infer(ask(name), card)
    explained = await mesh.table.infer(ask(f"{name}-explainer"), card)
    plain = await mesh.table.infer(ask("fraud"), card)
    metadata = await mesh.table.metadata(pb.ModelMetadataRequest(name=name), Call())
    await asyncio.sleep(0)

    assert (response.model_name, explained.model_name, metadata.name) == (name, f"{name}-explainer", name)
    assert response.parameters["infermesh_model"].string_param == "fraud"
    assert _variant(response) == _variant(explained) == _variant(plain)
    assert {model for b in ("one", "two") for model, _, _ in mesh.backends[b].asked} == {"fraud", "fraud-explainer"}
    assert {model for model, _, _ in mesh.backends["explainer"].asked} == {"fraud"}  # the copies
    assert mesh.table.label(name) == "fraud"
    assert mesh.picks("fraud", _variant(plain), "sticky") == 2
    assert await mesh.table.ready(name)


class _Watched:
    """A table whose readiness is watched, on a clock that is set."""

    def __init__(self, mesh: Any, clock: Any, routes: list[dict[str, Any]], **readiness: Any) -> None:
        self.clock = clock
        self.backends = mesh.backends
        self.metrics = mesh.metrics
        self.value = mesh.value
        self.picks = mesh.picks
        self.watch = ReadinessWatch(clock=clock, draw=lambda: 0.5)
        self.counted = mesh.counted
        settings = {"every": "10s", "fall": 1, "rise": 1} | readiness
        self.file = RoutesFile.model_validate({"routes": routes, "readiness": settings})
        draw = random.Random(5).random
        self.table = RouteTable(self.file, mesh.table._all_backends, self.counted, draw=draw, watch=self.watch)
        self.counted.standing(self.table.standing)

    async def look(self) -> None:
        self.clock.now += 20.0
        self.watch.look()
        await self.watch.settled()

    def ready(self, variant: str) -> float:
        found = [
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "infermesh_gateway_variant_ready" and sample.labels["variant"] == variant
        ]
        assert len(found) == 1
        return found[0]


@pytest.fixture
def watched(make_mesh: Any, clock: Any) -> Any:
    """watched([route, …], every=…): as make_mesh, with readiness."""

    def make(routes: list[dict[str, Any]], **readiness: Any) -> _Watched:
        mesh = make_mesh([{"model": "x", "backend": "one"}])
        mesh.metrics = Metrics("gateway")  # of the table that is watched alone
        mesh.counted = GatewayMetrics(mesh.metrics)
        return _Watched(mesh, clock, routes, **readiness)

    return make


PLAIN = FRAUD | {"rules": []}


async def test_the_share_of_a_dead_variant_goes_to_the_others(watched: Any, ask: Any) -> None:
    """Its cards go to the others, and come back with it; no other card moves."""
    mesh = watched([PLAIN])
    request = ask("fraud")

    async def answers() -> list[str]:
        return [_variant(await mesh.table.infer(request, call)) for call in CARDS]

    before = await answers()
    mesh.backends["one"].state["ready"] = False
    await mesh.look()
    without = await answers()
    assert mesh.ready("stable") == 0
    mesh.backends["one"].state["ready"] = True
    await mesh.look()
    after = await answers()

    assert "stable" not in without
    assert all(was == now for was, now in zip(before, without, strict=True) if was != "stable")
    assert abs(without.count("canary") - 0.75 * len(CARDS)) < Z_999 * math.sqrt(len(CARDS) * 0.75 * 0.25)
    assert after == before
    assert mesh.ready("stable") == 1


async def test_calls_of_a_dead_variant_may_fail(watched: Any, ask: Any) -> None:
    """With `when_dead: fail` its share is refused at once, as not begun, and counted; the other shares stay as they are."""
    mesh = watched([PLAIN | {"when_dead": "fail"}])
    mesh.backends["two"].state["ready"] = False
    await mesh.look()

    refused = 0
    for call in CARDS[:500]:
        try:
            assert _variant(await mesh.table.infer(ask("fraud"), call)) == "stable"
        except Unavailable as error:
            assert (error.reason, error.rejected, error.variant in ("canary", "other")) == (
                "VARIANT_NOT_READY",
                True,
                True,
            )
            refused += 1

    assert mesh.backends["two"].asked == []
    assert abs(refused - 100) < Z_999 * math.sqrt(500 * 0.2 * 0.8)
    assert mesh.picks("fraud", "canary", "refused") + mesh.picks("fraud", "other", "refused") == refused


@pytest.mark.parametrize("when_dead", ["others", "fail"])
async def test_the_last_one_is_never_taken_away(watched: Any, ask: Any, when_dead: str) -> None:
    """When none is ready all count as ready: the backends' own errors are the answer, or their answers after all."""
    mesh = watched([PLAIN | {"when_dead": when_dead}])
    for name in ("one", "two"):
        mesh.backends[name].state["ready"] = False
    await mesh.look()

    got = {_variant(await mesh.table.infer(ask("fraud"), call)) for call in CARDS[:300]}

    assert got == {"stable", "canary", "other"}


async def test_who_asks_for_a_dead_variant_gets_it(watched: Any, ask: Any) -> None:
    """A version, or a variant by its name, is what the caller wants, and nothing else is given for it."""
    mesh = watched([PLAIN])
    mesh.backends["two"].state["ready"] = False
    await mesh.look()

    by_version = await mesh.table.infer(ask("fraud", "2"), Call())
    by_name = await mesh.table.infer(ask("fraud"), Call(metadata={"x-infermesh-variant": "canary"}))

    assert _variant(by_version) == _variant(by_name) == "canary"


async def test_an_explanation_goes_by_the_readiness_of_what_it_explains(watched: Any, ask: Any) -> None:
    """While the card's variant is not ready it gets the same other variant for both."""
    mesh = watched([PLAIN | {"explanations": {"backend": "explainer"}}])
    mesh.backends["two"].state["ready"] = False
    await mesh.look()

    for call in CARDS[:50]:
        assert _variant(await mesh.table.infer(ask("fraud-explainer"), call)) == "stable"


async def test_one_that_is_only_observed_keeps_its_share(watched: Any, ask: Any) -> None:
    """In mode `observe` the metric says what would be, and the split stays."""
    mesh = watched([PLAIN], mode="observe")
    mesh.backends["two"].state["ready"] = False
    await mesh.look()

    got = {_variant(await mesh.table.infer(ask("fraud"), call)) for call in CARDS[:300]}

    assert got == {"stable", "canary", "other"}
    assert mesh.ready("canary") == 0


async def test_only_who_shares_is_watched(watched: Any, make_mesh: Any, ask: Any) -> None:
    """A variant that has all calls, or none, is not asked; with `off` nobody is; of a prefix the backend itself is asked."""
    alone = [{"name": "a", "weight": 1}, {"name": "b", "weight": 0, "backend": "two"}]
    both = [{"name": "a", "weight": 1}, {"name": "b", "weight": 1, "backend": "two"}]
    routes = [
        {"model": "alone", "backend": "one", "variants": alone},
        {"prefix": "all-", "backend": "one", "variants": both},
        PLAIN,
    ]

    places = {gate.place[:2] for gate in watched(routes).watch._gates.values()}
    off = watched(routes, mode="off").watch._gates

    assert places == {("one", ""), ("two", ""), ("one", "fraud"), ("two", "fraud")}
    assert off == {}


async def test_a_failed_call_has_its_variant_asked_at_once(watched: Any, ask: Any) -> None:
    """UNAVAILABLE from a variant brings its next probe forward; any other error does not."""
    mesh = watched([PLAIN])
    mesh.backends["one"].state["error"] = Internal("?")
    with pytest.raises(Internal):
        await mesh.table.infer(ask("fraud", "1"), Call())
    assert mesh.watch.look() > 0

    mesh.backends["one"].state["error"] = Unavailable("away")
    with pytest.raises(Unavailable):
        await mesh.table.infer(ask("fraud", "1"), Call())
    mesh.watch.look()
    await mesh.watch.settled()

    assert mesh.ready("stable") == 0
    assert _variant(await mesh.table.infer(ask("fraud"), Call())) != "stable"


async def test_a_failure_is_counted_for_the_variant_that_was_picked(make_mesh: Any, ask: Any) -> None:
    """The error tells who counts it which variant it is of, when it is cancelled or our own mistake too."""
    mesh = make_mesh([FRAUD])
    seen: list[tuple[str, str]] = []
    service = stack(
        Measured(lambda m, version, variant, code, s: seen.append((variant, code)), mesh.table.label),
        service=mesh.table,
    )

    for error in (Unavailable("away"), KeyError("ours"), asyncio.CancelledError()):
        mesh.backends["two"].state["error"] = error
        with pytest.raises(type(error)):
            await service.infer(ask("fraud", "2"), Call())
    with pytest.raises(KeyError):
        mesh.backends["two"].state["error"] = KeyError("ours")
        [response async for response in service.stream(ask("fraud", "3"), Call())]
    with pytest.raises(NotFound):
        await service.infer(ask("fraud", "9"), Call())

    codes = [("canary", "UNAVAILABLE"), ("canary", "INTERNAL"), ("canary", "CANCELLED"), ("other", "INTERNAL")]
    assert seen == [*codes, ("", "NOT_FOUND")]


async def test_a_loop_of_gateways_is_refused(make_mesh: Any, ask: Any) -> None:
    """A call that has come through too many gateways goes no further, whatever the RPC."""
    mesh = make_mesh([FRAUD])
    last, over = Call(gateways=MAX_GATEWAYS), Call(gateways=MAX_GATEWAYS + 1)

    await mesh.table.infer(ask("fraud"), last)
    for asking in (
        mesh.table.infer(ask("fraud"), over),
        mesh.table.metadata(pb.ModelMetadataRequest(name="fraud"), over),
        mesh.table.index(pb.RepositoryIndexRequest(), over),
        mesh.table.config(pb.ModelConfigRequest(name="fraud"), over),
    ):
        with pytest.raises(FailedPrecondition, match="a loop of gateways") as refused:
            await asking
        assert (refused.value.reason, refused.value.rejected) == ("GATEWAY_LOOP", True)
    with pytest.raises(FailedPrecondition):
        [response async for response in mesh.table.stream(ask("fraud"), over)]


async def test_readiness_in_a_loop_does_not_double(make_mesh: Any) -> None:
    """Who asks what is being found out waits for that: a gateway that is its own backend, twice, ends."""
    mesh = make_mesh([FRAUD])
    asked = 0

    async def again(model: str = "", version: str = "") -> bool:
        nonlocal asked
        asked += 1
        try:
            async with asyncio.timeout(0.05):
                return bool(await mesh.table.ready(model, version))
        except TimeoutError:
            return False

    for variant in mesh.table.find("fraud").split.variants:
        variant.service.ready = again

    assert not await mesh.table.ready("fraud")
    assert asked == 3
    assert mesh.table._asking == {}


async def test_who_may_debug_is_told_generation_and_reason(make_mesh: Any, ask: Any) -> None:
    """Only where the call asks for it; the generation is the table's."""
    mesh = make_mesh([FRAUD])
    debug = {"x-infermesh-debug": "1"}
    mesh.table.swap(RoutesFile.model_validate({"routes": [FRAUD]}))

    response = await mesh.table.infer(ask("fraud"), _of("acme", **debug))
    by_card = await mesh.table.infer(ask("fraud"), Call(metadata=debug | {"x-card": "c"}))
    plain = await mesh.table.infer(ask("fraud"), Call())

    assert mesh.table.generation == 2
    assert response.parameters["infermesh_generation"].int64_param == 2
    assert response.parameters["infermesh_picked_by"].string_param == "rule beta"
    assert by_card.parameters["infermesh_picked_by"].string_param == "sticky"
    assert set(plain.parameters) == {"infermesh_variant"}
