"""Shadows that fail, hang and answer otherwise, before a real gateway: callers feel nothing, and the report says what it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_gateway import Backend, resident_bytes, serving
from e2e_shadows import comparing, fraud, mirrored, mirroring, refusing, route, saying, until

from infermesh.call import Call
from infermesh.cli.ports import free_port
from infermesh.errors import InvalidRequest
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import shadow_reports_pb2 as reports_pb

CALLS = 60
GROWTH_BYTES = 8 << 20
NAN = float("nan")
ONE, TWO = np.array([0]), np.array([0, 0])
# By model: what the shadow says where the primary says `fraud(0.2)`, and what is said of it: kind of event, and sentence.
OTHERWISE: dict[str, tuple[list[tuple[str, str, Any]], str, str]] = {
    "names": ([("labels", "INT64", ONE), fraud(0.2)[1]], "structure", 'output "label" is missing'),
    "shapes": ([("label", "INT64", TWO), fraud(0.2)[1]], "structure", 'output "label" has another shape'),
    "datatypes": ([("label", "INT32", ONE.astype(np.int32)), fraud(0.2)[1]], "structure", "is INT32, not INT64"),
    "nothing": ([], "structure", "is missing"),
    "numbers": ([fraud(0.2)[0], ("probabilities", "FP32", np.array([[NAN, 0.2]], np.float32))], "nonfinite", ""),
    "labels": (fraud(0.8), "label", ""),
}


async def test_answers_of_another_form_are_named_and_harm_nobody(tmp_path: Path) -> None:
    """Other names, shapes, datatypes, NaN, other labels, no outputs at all: the report says which, and every call is answered."""
    answers = {model: saying(outputs) for model, (outputs, _, _) in OTHERWISE.items()}

    async def otherwise(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return await answers[request.model_name](request, call)

    routes = [route(model) for model in OTHERWISE]
    async with mirroring(tmp_path, routes, Backend(otherwise)) as (gateway, caller):
        await asyncio.gather(*(caller.call(CALLS, model) for model in OTHERWISE))
        reports = {model: await caller.report(CALLS, model) for model in OTHERWISE}

        assert caller.ended == {"OK": CALLS * len(OTHERWISE)}
        for model, (_, what, text) in OTHERWISE.items():
            report = reports[model]
            assert report.verdict.state == reports_pb.Verdict.DIFFERS, (model, report.verdict)
            (event,) = [each for each in report.events if each.what == what]
            assert (event.shadow.hits, event.shadow.of) == (CALLS, CALLS), model
            assert what in [each.what for each in report.verdict.findings]
            assert any(text in each.what for each in report.structure) or not text, (model, report.structure)
        assert {each.what for each in reports["labels"].verdict.findings} == {"label", "largest_column", "shift"}
        assert gateway.sample("infermesh_gateway_pairs_total", outcome="compared") == CALLS * len(OTHERWISE)


async def test_the_same_answers_are_no_difference_and_repeats_bear_the_mark_too(tmp_path: Path) -> None:
    """A model beside itself, every call repeated: within noise. Copies and repeats are marked, the caller's call is not."""
    primary, shadow = Backend(saying(fraud(0.2))), Backend(saying(fraud(0.2)))
    routes = [route("m", mirrored(compare={"repeat": 1}))]
    async with mirroring(tmp_path, routes, shadow, primary) as (_, caller):
        await caller.call(CALLS)
        report = await caller.report(CALLS, repeats=CALLS)

    assert report.verdict.state == reports_pb.Verdict.WITHIN_NOISE, report.verdict
    assert [(each.shadow, each.variant) for each in shadow.calls] == [(True, "candidate")] * CALLS
    assert sorted((each.shadow, each.variant) for each in primary.calls) == sorted(
        [(False, "default"), (True, "default")] * CALLS
    )


async def test_a_shadow_that_is_dead_lives_and_dies(tmp_path: Path) -> None:
    """Every call is answered throughout; what the copies came to is told by both codes, and what was answered is compared."""
    port = free_port()
    async with mirroring(tmp_path, [route()], f"127.0.0.1:{port}") as (gateway, caller):
        await caller.call(20)
        await until(lambda: gateway.sample("infermesh_gateway_shadow_total", outcome="failed") == 20)

        async with serving(Backend(saying(fraud(0.2))), grpc_port=port):
            while not gateway.sample("infermesh_gateway_shadow_total", outcome="mirrored"):
                await caller.call(1)  # the channel connects again when it likes
            await caller.call(20)
            # Nobody waits for copies: the shadow must not die before them.
            await until(lambda: gateway.sample("infermesh_gateway_shadow_total") == caller.ended["OK"])
        await caller.call(20)
        await until(lambda: gateway.sample("infermesh_gateway_shadow_total") == caller.ended["OK"])

        compared = gateway.sample("infermesh_gateway_shadow_total", outcome="mirrored")
        report = await caller.report(int(compared), failed=caller.ended["OK"] - int(compared))
        assert set(caller.ended) == {"OK"}
        assert compared >= 21
        assert {each.primary for each in report.codes} == {"OK"}
        failed = {each.other: each.count for each in report.codes if each.other != "OK"}
        assert failed.get("UNAVAILABLE", 0) >= 40, failed


async def test_a_shadow_that_hangs_holds_its_bound_of_copies(tmp_path: Path) -> None:
    """Four copies are under way, two wait for their turn, all others are dropped; callers are answered. Then it answers late."""
    go = asyncio.Event()

    async def late(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await go.wait()
        return await saying(fraud(0.2))(request, call)

    shadow = Backend(late)
    async with mirroring(tmp_path, [route("m", mirrored(max_in_flight=4, max_waiting=2))], shadow) as (gateway, caller):
        await caller.call(CALLS)
        await until(lambda: gateway.sample("infermesh_gateway_shadow_total", outcome="shed") == CALLS - 6)
        await until(lambda: len(shadow.calls) == 4)
        assert caller.ended == {"OK": CALLS}
        assert gateway.sample("infermesh_gateway_shadow_total", outcome="mirrored") == 0

        go.set()
        report = await caller.report(6)

        assert report.pairs == 6
        assert report.latency.median_difference > 0
        assert gateway.sample("infermesh_gateway_shadow_total", outcome="mirrored") == 6


async def test_a_shadow_that_hangs_holds_the_memory_of_its_bound(tmp_path: Path) -> None:
    """Four copies of 64 KiB are kept, and of 500 calls no more: 31 MiB otherwise."""

    async def never(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    shadow = Backend(never)
    async with mirroring(tmp_path, [route("m", mirrored(max_in_flight=4))], shadow) as (gateway, caller):
        caller.payload_bytes = 65_536
        await caller.call(200)
        before = resident_bytes(gateway.pid)

        await caller.call(500)
        grown = resident_bytes(gateway.pid) - before

        assert caller.ended == {"OK": 700}
        assert len(shadow.calls) == 4
        assert gateway.sample("infermesh_gateway_shadow_total", outcome="shed") == 696
        assert grown < GROWTH_BYTES, f"{grown / 2**20:.1f} MiB"


async def test_a_copy_past_its_budget_is_a_pair_with_that_code(tmp_path: Path) -> None:
    """The candidate is told that nobody waits any more, and the report counts DEADLINE_EXCEEDED beside OK."""

    async def never(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    shadow = Backend(never)
    async with mirroring(tmp_path, [route("m", mirrored(budget="50ms"))], shadow) as (_, caller):
        await caller.call(5)
        report = await caller.report(0, failed=5)
        await until(lambda: shadow.cancelled == len(shadow.calls))

    assert caller.ended == {"OK": 5}
    assert {(each.primary, each.other): each.count for each in report.codes} == {("OK", "DEADLINE_EXCEEDED"): 5}
    assert report.pairs == 0


async def test_a_primary_that_fails_while_the_shadow_answers(tmp_path: Path) -> None:
    """The caller gets the primary's failure and nothing of the shadow's answer; the pair is counted by both codes."""
    primary = Backend(refusing(InvalidRequest("no", reason="BAD")))
    async with mirroring(tmp_path, [route()], Backend(saying(fraud(0.2))), primary) as (_, caller):
        await caller.call(10)
        report = await caller.report(0, failed=10)

    assert caller.ended == {"INVALID_ARGUMENT": 10}
    assert {(each.primary, each.other): each.count for each in report.codes} == {("INVALID_ARGUMENT", "OK"): 10}


async def test_shadows_with_fractions_of_their_own_beside_a_canary(tmp_path: Path) -> None:
    """Each shadow gets its share of the calls, whatever variant answers, and is compared with each variant by itself."""
    calls = 400
    shadows = [mirrored(name="all"), mirrored(name="some", fraction=0.25), mirrored(name="none", fraction=0)]
    variants = [
        {"name": "stable", "version": 1, "weight": 50, "backend": "primary"},
        {"name": "canary", "version": 2, "weight": 50, "backend": "primary"},
    ]
    one_route = route("m", *(each | {"version": 3} for each in shadows), variants=variants)
    del one_route["backend"]
    async with mirroring(tmp_path, [one_route], Backend(saying(fraud(0.2)))) as (gateway, caller):
        await caller.call(calls)
        await until(lambda: gateway.sample("infermesh_gateway_shadow_total", shadow="all") == calls)
        some = -1.0
        while (now := gateway.sample("infermesh_gateway_shadow_total", shadow="some")) != some:  # copies still end
            some = now
            reports = await caller.reports(calls + int(some))

    pairs = {(each.shadow, each.variant): each.pairs for each in reports}
    assert {variant: pairs["all", variant] for variant in ("stable", "canary")} == caller.variants
    assert pairs["some", "stable"] + pairs["some", "canary"] == some
    assert 45 <= some <= 160, some  # all but one in a million of binomial(400, 0.25)
    assert {shadow for shadow, _ in pairs} == {"all", "some"}


async def test_a_shadow_alone_is_no_route(tmp_path: Path) -> None:
    """With nobody to answer the caller the gateway does not start, and says where and why."""
    alone = {"model": "m", "shadows": [mirrored()]}

    with pytest.raises(AssertionError, match="did not start") as refused:
        async with comparing(tmp_path, {"shadow": "127.0.0.1:1"}, [alone]):
            pass

    assert "routes.0" in str(refused.value)
    assert "backend" in str(refused.value)
