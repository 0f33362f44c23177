"""What routes and variants survive, put together as the gateway does it; each part has its own tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from infermesh.call import Call
from infermesh.config import BreakerConfig
from infermesh.deadline import Deadline
from infermesh.errors import Internal, NotFound, Unavailable
from infermesh.filters import Measured
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import stack
from infermesh.telemetry import Metrics
from services.gateway.backends import Backend
from services.gateway.deadline_config import DeadlineConfig
from services.gateway.metrics import GatewayMetrics
from services.gateway.resilience import Resilience
from services.gateway.route_table import RouteTable
from services.gateway.routes import RouteConfig, RoutesFile
from tests.unit.gateway.conftest import FakeBackend, Mesh

VARIANTS = [
    {"name": "stable", "weight": 1, "backend": "one"},
    {"name": "old", "weight": 0, "backend": "two"},
]
CONSTANT = {"constant": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}]}}
Make = Callable[..., Mesh]


def written(*routes: Mapping[str, Any]) -> RoutesFile:
    return RoutesFile.model_validate({"routes": list(routes)})


@pytest.fixture
def make() -> Make:
    """make(route, …, deadline={…}, breaker={…}): a table as the gateway builds it, over two fakes."""

    def mesh(*routes: Mapping[str, Any], deadline: Any = None, breaker: Any = None) -> Mesh:
        metrics = Metrics("gateway")
        observers = GatewayMetrics(metrics)
        fakes = {name: FakeBackend(name) for name in ("one", "two")}
        backends = {name: Backend(name, fake) for name, fake in fakes.items()}
        settings = BreakerConfig.model_validate(
            {"failures": 2, "backoff": "1h", "max_backoff": "1h", **(breaker or {})}
        )
        resilience = Resilience(DeadlineConfig.model_validate(deadline or {}), settings, observers)
        return Mesh(RouteTable(written(*routes), backends, observers, resilience=resilience), fakes, metrics)

    return mesh


async def ask(mesh: Mesh, model: str = "fraud", **call: Any) -> pb.ModelInferResponse:
    return await mesh.table.infer(pb.ModelInferRequest(model_name=model, id="1"), Call(**call))


def events(mesh: Mesh, event: str) -> float:
    return mesh.value("infermesh_gateway_breaker_total", model="fraud", variant="stable", event=event)


async def test_each_route_has_its_ends(make: Make) -> None:
    """Its own default and maximum where it names them, else those of all; explanations have the same."""
    own = {"model": "fraud", "backend": "one", "deadline": {"default": "2s", "maximum": "5s"}}
    mesh = make(own, {"model": "iris", "backend": "two"}, deadline={"default": "20s", "maximum": "60s"})

    for model in ("fraud", "fraud-explainer"):
        await ask(mesh, model)
        await ask(mesh, model, deadline=Deadline.after(100))
    await ask(mesh, "iris")
    await ask(mesh, "iris", deadline=Deadline.after(100))

    ends = [[call.deadline.remaining() for _, _, call in mesh.backends[name].asked] for name in ("one", "two")]
    assert ends[0] == pytest.approx([2, 5, 2, 5], abs=0.5)
    assert ends[1] == pytest.approx([20, 60], abs=0.5)


async def test_a_variant_that_keeps_failing_is_left_alone_and_the_fallback_answers(make: Make) -> None:
    """Two calls fail and are helped; from then on the variant is not even asked. Everything is counted, and marked."""
    fallback = {"steps": [{"variant": "old"}, CONSTANT]}
    mesh = make({"model": "fraud", "variants": VARIANTS, "fallback": fallback})
    mesh.backends["one"].state["error"] = Unavailable("away")

    answers = [await ask(mesh) for _ in range(5)]
    mesh.backends["two"].state["error"] = Unavailable("away too")
    answers += [await ask(mesh)]

    marks = [each.parameters["infermesh_fallback"].string_param for each in answers]
    assert marks == ["variant:old"] * 5 + ["constant"]
    assert answers[0].parameters["infermesh_variant"].string_param == "old"
    assert len(mesh.backends["one"].asked) == 2
    assert (events(mesh, "opened"), events(mesh, "refused")) == (1, 4)
    counted = {"model": "fraud", "step": "variant:old", "outcome": "answered"}
    assert mesh.value("infermesh_gateway_fallback_total", **counted) == 5


async def test_a_covered_failure_is_the_variant_s_and_the_answer_the_fallback_s(make: Make) -> None:
    """In the metrics of requests: what a caller got is no success of the variant that was picked."""
    mesh = make({"model": "fraud", "variants": VARIANTS, "fallback": {"steps": [CONSTANT]}})
    mesh.backends["one"].state["error"] = Unavailable("away")
    service = stack(Measured(mesh.metrics.request, mesh.table.label), service=mesh.table)

    await service.infer(pb.ModelInferRequest(model_name="fraud"), Call())

    def requests(variant: str, code: str) -> float:
        return mesh.value("infermesh_requests_total", model="fraud", version="", variant=variant, code=code)

    assert (requests("stable", "UNAVAILABLE"), requests("fallback", "OK"), requests("stable", "OK")) == (1, 1, 0)


async def test_a_table_that_steps_back_answers_with_nothing_of_the_one_before(make: Make) -> None:
    """The cache belongs to the targets: other variants or versions begin with an empty one."""
    route = {"model": "fraud", "backend": "one", "fallback": {"steps": [{"cached": {}}]}}
    new, old = ({**route, "variants": [{"name": f"v{v}", "version": v, "weight": 1}]} for v in (2, 1))
    mesh = make(new)
    await ask(mesh)
    mesh.table.swap(written(old))
    mesh.backends["one"].state["error"] = Unavailable("away")

    with pytest.raises(Unavailable, match="away"):
        await ask(mesh)


async def test_a_route_says_what_its_breakers_count(make: Make) -> None:
    """INTERNAL opens nothing where the route leaves it out, however often it comes."""
    counts = {"counts": ["unavailable", "deadline"]}
    mesh = make({"model": "fraud", "variants": VARIANTS, "breaker": counts}, {"model": "iris", "backend": "one"})
    mesh.backends["one"].state["error"] = Internal("broken")

    for model, last in (("fraud", Internal), ("iris", Unavailable)):
        for _ in range(40):
            with pytest.raises((Internal, Unavailable)) as error:
                await ask(mesh, model)
        assert error.type is last


async def test_callers_at_the_edge_are_told_generation_and_variant(make: Make) -> None:
    """Beside every answer, errors too; hops inside the mesh, whose calls have no such list, are told nothing."""
    mesh = make({"model": "fraud", "variants": VARIANTS})
    mesh.table.swap(written({"model": "fraud", "variants": VARIANTS}))
    trailing: dict[str, str] = {}

    await ask(mesh, trailing=trailing)
    mesh.backends["one"].state["error"] = Unavailable("away")
    after: dict[str, str] = {}
    with pytest.raises(Unavailable):
        await ask(mesh, trailing=after)
    missing: dict[str, str] = {}
    with pytest.raises(NotFound):
        await ask(mesh, "no-such", trailing=missing)

    assert trailing == after == {"x-infermesh-generation": "2", "x-infermesh-variant": "stable"}
    assert missing == {"x-infermesh-generation": "2"}


async def test_behind_a_prefix_one_model_takes_no_other_with_it(make: Make) -> None:
    """Its models share a variant, so what one of them does says nothing about the others: nobody is left alone."""
    mesh = make({"prefix": "", "backend": "one"})
    mesh.backends["one"].state["error"] = Unavailable("away")
    for _ in range(5):
        with pytest.raises(Unavailable, match="away"):
            await ask(mesh, "bad")
    del mesh.backends["one"].state["error"]

    assert (await ask(mesh, "good")).model_name == "good"


async def test_a_new_table_does_not_forgive(make: Make) -> None:
    """A breaker outlives a reload; one whose variant is gone from the table is forgotten, and comes back closed."""
    route = {"model": "fraud", "variants": VARIANTS}
    mesh = make(route)
    mesh.backends["one"].state["error"] = Unavailable("away")
    for _ in range(2):
        with pytest.raises(Unavailable, match="away"):
            await ask(mesh)

    mesh.table.swap(written(route, {"model": "iris", "backend": "two"}))
    with pytest.raises(Unavailable, match="keeps failing"):
        await ask(mesh)
    mesh.table.swap(written({"model": "iris", "backend": "two"}))
    mesh.table.swap(written(route))
    with pytest.raises(Unavailable, match="away"):
        await ask(mesh)


async def test_a_variant_that_is_well_again_answers_again(make: Make) -> None:
    """After the pause its readiness is asked, then one call tries, then all go on."""
    mesh = make({"model": "fraud", "variants": VARIANTS}, breaker={"backoff": "1ms", "max_backoff": "1ms"})
    one = mesh.backends["one"]
    one.state["error"] = Unavailable("away")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await ask(mesh)
    del one.state["error"]

    async with asyncio.timeout(5):
        while True:
            try:
                await ask(mesh)
                break
            except Unavailable:
                await asyncio.sleep(0.001)
    await ask(mesh)

    assert events(mesh, "closed") == 1


async def test_what_is_off_is_not_in_the_stack(make: Make) -> None:
    """Off costs nothing; by default breaker and time check are there, a fallback only where a route has one."""
    off = make(
        {"model": "fraud", "backend": "one", "fallback": {"mode": "off", "steps": [CONSTANT]}},
        deadline={"enough_time": {"mode": "off"}},
        breaker={"mode": "off"},
    )
    on = make({"model": "fraud", "backend": "one", "fallback": {"steps": [CONSTANT]}})

    assert not any(word in repr(off.table) for word in ("Fallback", "EnoughTime", "CircuitBreaker"))
    assert "Fallback(constant)" in repr(on.table)
    service = on.table.find("fraud").split.variants[0].service
    assert repr(service).startswith("EnoughTime → CircuitBreaker → ")
    explaining = on.table.find("fraud-explainer").split.variants[0].service
    assert repr(explaining).startswith("CircuitBreaker → ")


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"fallback": {"steps": [{"variant": "no-such"}]}}, "no variant no-such, the route has stable, old"),
        ({"fallback": {"steps": [{"model": "simple"}]}}, "expected a backend"),
        ({"fallback": {"steps": [{"cached": {"by": "sticky"}}]}}, "has no sticky key"),
        (
            {"sticky": {"tenant": True}, "fallback": {"steps": [{"cached": {"by": "sticky"}}]}},
            "a tenant is no entity",
        ),
        ({"fallback": {"steps": [{"model": "fraud", "backend": "one"}]}}, "it would be asked again"),
        ({"variants": [{"name": "fallback", "weight": 1, "backend": "one"}]}, "stands for what a fallback answers"),
        ({"breaker": {"counts": ["not_found"]}}, "'unavailable', 'deadline' or 'internal'"),
        ({"fallback": {"steps": [{}]}}, "exactly one of variant, model, cached and constant"),
        ({"fallback": {"steps": [{"variant": "old", "version": 3}]}}, "go with `model`"),
        ({"fallback": {"steps": []}}, "at least 1"),
        ({"deadline": {"default": "2s", "maximum": "1s"}}, "no longer than the maximum"),
    ],
)
def test_a_route_that_could_not_be_meant_is_refused(route: Any, words: str) -> None:
    """All of it when the file is read, with what would be right."""
    with pytest.raises(ValidationError, match=words):
        RouteConfig.model_validate({"model": "fraud", "variants": VARIANTS, **route})


def test_a_fallback_s_backend_must_exist_like_any_other() -> None:
    """It is among those that the route names."""
    steps = [{"model": "simple", "backend": "elsewhere"}]
    route = RouteConfig.model_validate({"model": "fraud", "variants": VARIANTS, "fallback": {"steps": steps}})

    assert route.backends == {"one", "two", "elsewhere"}
