"""Answers of a shadow and of the primary on their way to be compared, over a route table."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.errors import Internal, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.telemetry import Metrics
from services.gateway.backends import Backend
from services.gateway.metrics import GatewayMetrics
from services.gateway.pairs import Pairs
from services.gateway.route_table import RouteTable
from services.gateway.routes import RoutesFile
from services.gateway.targets import ShadowConfig


class Recording:
    """Takes the place of the comparing process: it keeps what it is offered."""

    def __init__(self) -> None:
        self.offered: list[tuple[dict[str, Any], pb.ModelInferResponse, pb.ModelInferResponse]] = []
        self.adopted: dict[Any, Any] = {}
        self.counts: Counter[str] = Counter()
        self.takes = True
        self.max_bytes = 1000

    def offer(self, head: bytes, primary: bytes, other: bytes) -> bool:
        if self.takes:
            parse = pb.ModelInferResponse.FromString
            self.offered.append((json.loads(head), parse(primary), parse(other)))
        return self.takes

    def pairs(self, model: str, shadow: Any, again: Any) -> Pairs:
        return Pairs(
            model, shadow.name, offer=self.offer, again=again, repeat=shadow.compare.repeat, max_bytes=self.max_bytes,
            observe=lambda outcome: self.counts.update([outcome]), wall_clock=lambda: 1000.0,
        )  # fmt: skip

    def adopt(self, shadows: Any) -> None:
        self.adopted = dict(shadows)


class Compared:
    """A route table that compares, over the fakes of `make_mesh`."""

    def __init__(self, mesh: Any, repeat: float, draw: float, route: dict[str, Any]) -> None:
        self.comparer = Recording()
        self.backends = mesh.backends
        self.lag = False
        shadow = {"name": "candidate", "version": 3, "backend": "two", "fraction": 1.0, "compare": {"repeat": repeat}}
        file = RoutesFile.model_validate({"routes": [{"backend": "one", "shadows": [shadow], **route}]})
        backends = {name: Backend(name, fake) for name, fake in mesh.backends.items()}
        self.metrics = Metrics("gateway")
        self.table = RouteTable(
            file, backends, GatewayMetrics(self.metrics), draw=lambda: draw, comparer=self.comparer,
            overloaded=lambda: self.lag,
        )  # fmt: skip

    def copies(self, outcome: str) -> float:
        labels = {"service": "gateway", "model": "fraud", "shadow": "candidate", "outcome": outcome}
        return self.metrics.registry.get_sample_value("infermesh_gateway_shadow_total", labels) or 0.0


@pytest.fixture
def compared(make_mesh):
    """compared(repeat=…, draw=…, **route): a route for `fraud` whose shadow gets every call."""

    def make(*, repeat: float = 0.0, draw: float = 0.0, **route: Any) -> Compared:
        return Compared(make_mesh([{"model": "fraud", "backend": "one"}]), repeat, draw, {"model": "fraud", **route})

    return make


async def test_both_answers_are_handed_over(compared, ask, settle):
    """With who answered, request id, codes and times; the caller's answer is what it would have been."""
    mesh = compared()

    response = await mesh.table.infer(ask("fraud", id="7"), Call(request_id="r-1"))
    assert mesh.comparer.offered == []  # not before the answer is on its way
    await settle()

    ((head, primary, other),) = mesh.comparer.offered
    seconds = head.pop("primary"), head.pop("other")
    assert head == {
        "kind": "shadow", "model": "fraud", "shadow": "candidate", "variant": "default", "request_id": "r-1",
        "at_s": 1000.0,
    }  # fmt: skip
    assert [code for code, *_ in seconds] == ["OK", "OK"]
    assert all(0 <= took < 5 for _, took, _ in seconds)
    assert [version for *_, version in seconds] == ["7", "3"]
    assert primary == response
    assert other.model_version == "3"
    assert mesh.comparer.counts == {"compared": 1}
    assert list(mesh.comparer.adopted) == [("fraud", "candidate")]


async def test_the_order_of_the_answers_does_not_matter(compared, ask, settle):
    """A candidate that is faster, and one that is slower, than the primary."""
    for slow in ("one", "two"):
        mesh = compared()
        mesh.backends[slow].state["wait"] = waiting = asyncio.Event()

        call = asyncio.ensure_future(mesh.table.infer(ask("fraud"), Call()))
        await settle()
        assert mesh.comparer.offered == []
        waiting.set()
        await call
        await settle()

        assert mesh.comparer.counts == {"compared": 1}


async def test_failures_are_pairs_too(compared, ask, settle):
    """A shadow that fails while the primary answers, and a primary that fails while the shadow answers."""
    mesh = compared()
    mesh.backends["two"].state["error"] = Internal("candidate: broken")
    await mesh.table.infer(ask("fraud"), Call())
    await settle()
    mesh.backends["two"].state.clear()
    mesh.backends["one"].state["error"] = Unavailable("one: away")
    with pytest.raises(Unavailable):
        await mesh.table.infer(ask("fraud"), Call())
    await settle()

    (first, _, nothing), (second, none, answer) = mesh.comparer.offered
    assert (first["primary"][0], first["other"][0], nothing) == ("OK", "INTERNAL", pb.ModelInferResponse())
    assert (second["primary"][0], second["other"][0], none) == ("UNAVAILABLE", "OK", pb.ModelInferResponse())
    assert second["variant"] == "default"
    assert answer.model_version == "3"


async def test_a_caller_who_goes_makes_no_pair(compared, ask, settle):
    """Its own cancellation says nothing about the primary."""
    mesh = compared()
    mesh.backends["one"].state["wait"] = asyncio.Event()
    call = asyncio.ensure_future(mesh.table.infer(ask("fraud"), Call()))
    await settle()

    call.cancel()
    await settle()

    assert mesh.comparer.offered == []
    assert mesh.comparer.counts == {"skipped": 1}


async def test_the_primary_is_asked_again_in_the_version_that_answered(compared, ask, settle):
    """As a copy, which nobody waits for; both answers of the primary make a pair of their own."""
    mesh = compared(
        repeat=1.0,
        draw=0.95,
        variants=[
            {"name": "stable", "version": 1, "weight": 90},
            {"name": "canary", "version": 2, "weight": 10},
        ],
    )

    response = await mesh.table.infer(ask("fraud"), Call(request_id="r"))
    await settle()

    first, again = mesh.backends["one"].asked
    assert (first[1], again[1]) == ("2", "2")
    assert (first[2].shadow, again[2].shadow, again[2].variant) == (False, True, "canary")
    repeated = next(each for each in mesh.comparer.offered if each[0]["kind"] == "repeat")
    assert (repeated[0]["variant"], repeated[0]["request_id"]) == ("canary", "r")
    assert repeated[1] == response
    assert mesh.comparer.counts == {"compared": 1, "repeated": 1}


async def test_repeats_are_a_share(compared, ask, settle):
    """None when the number that is drawn is not below it, nor for a call that failed."""
    mesh = compared(repeat=0.5, draw=0.6)
    await mesh.table.infer(ask("fraud"), Call())
    failing = compared(repeat=1.0)
    failing.backends["one"].state["error"] = Unavailable("one: away")
    with pytest.raises(Unavailable):
        await failing.table.infer(ask("fraud"), Call())
    await settle()

    assert len(mesh.backends["one"].asked) == 1
    assert len(failing.backends["one"].asked) <= 1


async def test_a_fallback_is_not_the_primary(settle):
    """Its answers are neither compared nor asked for again."""
    recording = Recording()
    pairs = recording.pairs("fraud", ShadowConfig(name="s", fraction=1.0), lambda *_: pytest.fail("it was asked again"))
    answer = pb.ModelInferResponse(model_name="fraud")
    answer.parameters["infermesh_fallback"].string_param = "constant"
    pair = pairs.begin(Call())

    pair.primary_answered(answer, 0.1)
    pair.other_answered(pb.ModelInferResponse(), 0.1)
    await settle()

    assert pairs.again(answer) is None
    assert recording.counts == {"skipped": 1}


async def test_large_answers_are_skipped_and_a_full_queue_drops(compared, ask, settle):
    """Neither reaches the caller; both are counted."""
    mesh = compared()
    mesh.comparer.takes = False
    await mesh.table.infer(ask("fraud"), Call())
    await settle()
    assert mesh.comparer.counts == {"dropped": 1}

    pairs = Pairs(
        "fraud", "s", offer=mesh.comparer.offer, again=lambda *_: None, repeat=0.0, max_bytes=10,
        observe=lambda outcome: mesh.comparer.counts.update([outcome]),
    )  # fmt: skip
    pair = pairs.begin(Call())
    pair.other_answered(pb.ModelInferResponse(model_name="x" * 20), 0.1)
    pair.primary_answered(pb.ModelInferResponse(), 0.1)
    await settle()
    assert mesh.comparer.counts == {"dropped": 1, "skipped": 1}


async def test_a_large_answer_is_let_go_when_it_comes(settle):
    """Not when the shadow has answered too, which may take as long as its deadline is."""
    recording = Recording()
    recording.max_bytes = 10
    pairs = recording.pairs("fraud", ShadowConfig(name="s", fraction=1.0), lambda *_: None)
    pair = pairs.begin(Call())

    pair.primary_answered(pb.ModelInferResponse(model_name="x" * 20), 0.1)
    await settle()

    assert pair.primary.response is None
    assert pair.primary.data == b""
    pair.other_answered(pb.ModelInferResponse(), 0.1)
    await settle()
    assert recording.counts == {"skipped": 1}
    assert recording.offered == []


async def test_under_overload_nothing_is_copied(compared, ask, settle):
    """Calls come first; that copies were suppressed is counted."""
    mesh = compared(repeat=1.0)
    mesh.lag = True

    await mesh.table.infer(ask("fraud"), Call())
    await settle()

    assert mesh.backends["two"].asked == []
    assert len(mesh.backends["one"].asked) == 1
    assert mesh.copies("suppressed") == 1


async def test_copies_of_a_prefix_are_not_compared(compared, ask, settle):
    """They are of many models."""
    mesh = compared(model="", prefix="fra")

    await mesh.table.infer(ask("fraud"), Call())
    await settle()

    assert len(mesh.backends["two"].asked) == 1
    assert mesh.comparer.offered == []
    assert mesh.comparer.adopted == {}


async def test_copies_wait_for_their_turn(compared, ask, settle):
    """Past `max_in_flight` as many wait as the shadow says, the next is shed; all that waited are mirrored in the end."""
    mesh = compared()
    shadow = {
        "name": "candidate",
        "version": 3,
        "backend": "two",
        "fraction": 1.0,
        "max_in_flight": 1,
        "max_waiting": 2,
        "compare": {"repeat": 0.0},
    }
    mesh.table.swap(RoutesFile.model_validate({"routes": [{"model": "fraud", "backend": "one", "shadows": [shadow]}]}))
    mesh.backends["two"].state["wait"] = waiting = asyncio.Event()

    for _ in range(5):
        await mesh.table.infer(ask("fraud"), Call())
        await settle()

    assert len(mesh.backends["two"].asked) == 1
    assert mesh.copies("shed") == 2
    waiting.set()
    await settle()
    assert mesh.copies("mirrored") == 3
