"""Readiness gates, variants' breakers and fallback together, as the gateway puts them together."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.config import BreakerConfig
from infermesh.errors import Internal, MeshError, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.telemetry import Metrics
from services.gateway.backends import Backend
from services.gateway.deadline_config import DeadlineConfig
from services.gateway.metrics import GatewayMetrics
from services.gateway.readiness import ReadinessWatch
from services.gateway.resilience import Resilience
from services.gateway.route_table import RouteTable
from services.gateway.routes import RoutesFile
from tests.unit.gateway.conftest import Clock, FakeBackend

VARIANTS = [
    {"name": "stable", "weight": 50, "backend": "one", "version": 1},
    {"name": "canary", "weight": 50, "backend": "two", "version": 2},
]
CONSTANT = {"constant": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}]}}
STAYS_OPEN = {"failures": 2, "backoff": "1h", "max_backoff": "1h"}
TRIES_AT_ONCE = {"failures": 2, "backoff": "1us", "max_backoff": "1us"}
AWAY, GARBAGE = Unavailable("away"), Internal("broken", reason="BACKEND_GARBAGE")


class Routed:
    """A table of one route over two fakes, its gates on a clock that is set, its breakers as a test wants them."""

    def __init__(self, breaker: dict[str, Any], **route: Any) -> None:
        self.clock = Clock()
        self.metrics = Metrics("gateway")
        self.fakes = {name: FakeBackend(name) for name in ("one", "two")}
        observers = GatewayMetrics(self.metrics)
        backends = {name: Backend(name, fake) for name, fake in self.fakes.items()}
        self.watch = ReadinessWatch(clock=self.clock, draw=lambda: 0.5)
        resilience = Resilience(DeadlineConfig(), BreakerConfig.model_validate(breaker), observers)
        file = RoutesFile.model_validate(
            {
                "routes": [{"model": "m", "variants": VARIANTS} | route],
                "readiness": {"every": "10s", "fall": 1, "rise": 1},
            }
        )
        draw = random.Random(7).random
        self.table = RouteTable(file, backends, observers, draw=draw, resilience=resilience, watch=self.watch)

    async def look(self) -> None:
        """Let every gate be asked."""
        self.clock.now += 20.0
        self.watch.look()
        await self.watch.settled()

    def fail(self, name: str, error: MeshError) -> None:
        """From now on it fails, also when it is asked whether it is ready: UNAVAILABLE is not ready, INTERNAL says nothing."""
        self.fakes[name].state["error"] = error

    def mend(self, name: str) -> None:
        del self.fakes[name].state["error"]

    async def ask(self, calls: int = 40, version: str = "") -> Counter[str]:
        """How so many calls end: by variant, by fallback or by the reason of the error."""
        ended: Counter[str] = Counter()
        for _ in range(calls):
            try:
                answer = await self.table.infer(pb.ModelInferRequest(model_name="m", model_version=version), Call())
            except MeshError as error:
                ended[error.reason] += 1
            else:
                marks = answer.parameters
                ended[marks["infermesh_fallback"].string_param or marks["infermesh_variant"].string_param] += 1
        return ended


async def test_a_breaker_that_is_open_yields_its_share_before_the_gate_closes() -> None:
    """Two calls find the variant away; from then on the other gets its share, whether the gate has closed yet or not."""
    routed = Routed(STAYS_OPEN)
    routed.fail("two", AWAY)

    before = await routed.ask()
    await routed.look()
    after = await routed.ask()

    assert before == {"stable": 38, "UNAVAILABLE": 2}
    assert after == {"stable": 40}


@pytest.mark.parametrize("when_dead", ["others", "fail"])
async def test_the_share_of_a_variant_that_is_ready_and_broken_is_its_route_s_to_give(when_dead: str) -> None:
    """Its gate has nothing against it, its breaker has: the others get its calls, or nobody does and they are refused."""
    routed = Routed(STAYS_OPEN, when_dead=when_dead)
    routed.fail("two", GARBAGE)
    await routed.look()

    ended = await routed.ask()

    refused = {"BREAKER_OPEN": ended["BREAKER_OPEN"]} if when_dead == "fail" else {}
    assert set(ended) == {"stable", "BACKEND_GARBAGE", *refused} and ended["BACKEND_GARBAGE"] == 2


async def test_the_share_comes_back_by_a_trial() -> None:
    """One call of the share finds out that it is well; no other is lost for it."""
    routed = Routed(TRIES_AT_ONCE)
    routed.fail("two", GARBAGE)
    await routed.ask()
    routed.mend("two")

    assert set(await routed.ask()) == {"stable", "canary"}


async def test_what_is_well_again_answers_with_its_gate() -> None:
    """When the gate opens, the first call is the trial of the breaker, whose time has come, and no call is lost."""
    routed = Routed(TRIES_AT_ONCE)
    routed.fail("two", AWAY)
    await routed.ask()
    await routed.look()
    assert await routed.ask() == {"stable": 40}

    routed.mend("two")
    closed = await routed.ask()
    await routed.look()
    opened = await routed.ask()

    assert closed == {"stable": 40}  # nobody is told by a call that was not made
    assert set(opened) == {"stable", "canary"}


@pytest.mark.parametrize(("when_dead", "expected"), [("others", "stable"), ("fail", "VARIANT_NOT_READY")])
async def test_who_may_have_the_share_is_the_route_s_to_say(when_dead: str, expected: str) -> None:
    """With `fail` a closed gate is told before the breaker, so that nobody waits for a backoff to learn it."""
    routed = Routed(STAYS_OPEN, when_dead=when_dead)
    routed.fail("two", AWAY)
    await routed.ask()
    await routed.look()

    ended = await routed.ask()

    assert set(ended) == {"stable", expected}
    assert len(routed.fakes["two"].asked) == 2  # those that opened the breaker


async def test_with_fail_the_fallback_answers_for_gate_and_breaker_alike() -> None:
    """Before the gate closes and after it, nobody sees an error; a step whose own breaker is open is passed over."""
    steps = {"steps": [{"variant": "stable"}, CONSTANT]}
    routed = Routed(STAYS_OPEN, when_dead="fail", fallback=steps)
    routed.fail("two", AWAY)

    by_breaker = await routed.ask()
    await routed.look()
    by_gate = await routed.ask()
    routed.fail("one", AWAY)
    both = await routed.ask()
    await routed.look()
    none_ready = await routed.ask()

    assert set(by_breaker) == set(by_gate) == {"stable", "variant:stable"}
    assert both == none_ready == {"constant": 40}


async def test_when_every_breaker_is_open_calls_are_refused_at_once_and_one_tries() -> None:
    """No variant is asked while all of them are left alone, whatever the gates say; when they are well each has one trial."""
    routed = Routed(STAYS_OPEN)
    for name in ("one", "two"):
        routed.fail(name, AWAY)
    await routed.ask()
    asked = [len(fake.asked) for fake in routed.fakes.values()]

    for _ in range(2):  # with gates that are still open, and with both closed, which count as open
        assert await routed.ask() == {"BREAKER_OPEN": 40}
        await routed.look()

    assert [len(fake.asked) for fake in routed.fakes.values()] == asked == [2, 2]


@pytest.mark.parametrize("when_dead", ["others", "fail"])
async def test_an_outage_of_all_ends_with_it(when_dead: str) -> None:
    """Every gate closed and every breaker open, and yet calls find out that one is back before its gate does."""
    routed = Routed(TRIES_AT_ONCE, when_dead=when_dead)
    for name in ("one", "two"):
        routed.fail(name, AWAY)
    await routed.ask()
    await routed.look()

    routed.mend("one")
    ended: Counter[str] = Counter()
    while not ended["stable"]:
        ended += await routed.ask(1)
    await routed.look()

    assert "VARIANT_NOT_READY" not in ended  # no gate refuses while all are closed
    expected = {"stable"} if when_dead == "others" else {"stable", "VARIANT_NOT_READY"}
    assert set(await routed.ask()) == expected


async def test_a_call_that_names_a_variant_meets_its_breaker_and_not_its_gate() -> None:
    """By its version a variant is asked whether its gate is open or not; while its breaker is open that is refused."""
    routed = Routed(STAYS_OPEN)
    routed.fail("two", AWAY)
    await routed.look()

    ended = await routed.ask(10, version="2")

    assert ended == {"UNAVAILABLE": 2, "BREAKER_OPEN": 8}
    assert await routed.ask() == {"stable": 40}
