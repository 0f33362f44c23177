"""Tests of copies that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.errors import Internal, Unavailable
from services.gateway.routes import RoutesFile

Settle = Callable[[], Awaitable[None]]


def _route(**shadow: Any) -> dict[str, Any]:
    return {
        "model": "fraud",
        "backend": "one",
        "shadows": [{"name": "candidate", "version": 3, "backend": "two", "fraction": 1.0, "budget": "10s"} | shadow],
    }


async def test_a_copy_is_marked_and_has_its_own_deadline(make_mesh: Any, ask: Any, settle: Settle) -> None:
    """The candidate is asked for its version with a call that says `shadow`; the primary's call and request are as they were."""
    mesh = make_mesh([_route(budget="5s")])
    request, call = ask("fraud", id="7"), Call(request_id="r", deadline=Deadline.after(0.5))
    before = request.SerializeToString()

    response = await mesh.table.infer(request, call)
    await settle()

    ((model, version, copy),) = mesh.backends["two"].asked
    assert (model, version, copy.variant, copy.shadow, copy.request_id) == ("fraud", "3", "candidate", True, "r")
    assert 4 < copy.deadline.remaining() <= 5
    ((_, _, primary),) = mesh.backends["one"].asked
    assert (primary.shadow, primary.variant, primary.deadline) == (False, "default", call.deadline)
    assert response.parameters["infermesh_variant"].string_param == "default"
    assert request.SerializeToString() == before
    assert mesh.copies("mirrored") == 1


@pytest.mark.parametrize(("draw", "copies"), [(0.19, 1), (0.21, 0)])
async def test_a_fraction_of_the_calls_is_copied(
    make_mesh: Any, ask: Any, settle: Settle, draw: float, copies: int
) -> None:
    """A call is copied when the number drawn for it is below the fraction."""
    mesh = make_mesh([_route(fraction=0.2)], draw=lambda: draw)

    await mesh.table.infer(ask("fraud"), Call())
    await settle()

    assert len(mesh.backends["two"].asked) == copies


async def test_a_candidate_that_hangs_delays_nobody_and_holds_no_more_than_its_bound(
    make_mesh: Any, ask: Any, settle: Settle
) -> None:
    """While a candidate hangs the primary answers at once; past the bound copies are dropped and counted."""
    mesh = make_mesh([_route(max_in_flight=4)])
    mesh.backends["two"].state["wait"] = hanging = asyncio.Event()

    async with asyncio.timeout(5):
        for _ in range(50):
            await mesh.table.infer(ask("fraud"), Call())
            await settle()

    assert len(mesh.backends["one"].asked) == 50
    assert len(mesh.backends["two"].asked) == 4
    assert mesh.copies("shed") == 46
    hanging.set()
    await settle()
    assert mesh.copies("mirrored") == 4
    await mesh.table.infer(ask("fraud"), Call())
    await settle()
    assert mesh.copies("mirrored") == 5


async def test_a_copy_ends_with_its_budget(make_mesh: Any, ask: Any, settle: Settle) -> None:
    """A candidate that does not look at the deadline is let go when the copy's budget is spent."""
    mesh = make_mesh([_route(budget="1ms")])
    mesh.backends["two"].state["wait"] = asyncio.Event()

    await mesh.table.infer(ask("fraud"), Call())
    copies = [task for task in asyncio.all_tasks() if task.get_name() == "shadow candidate"]
    await asyncio.wait(copies, timeout=5)

    assert (mesh.copies("failed"), mesh.copies("mirrored")) == (1, 0)


@pytest.mark.parametrize(
    "error", [Unavailable("dead"), Internal("broken"), RuntimeError("nobody foresaw it"), KeyError(1)]
)
async def test_a_candidate_that_fails_changes_no_answer(
    make_mesh: Any, ask: Any, settle: Settle, error: Exception
) -> None:
    """Whatever a candidate raises is counted, and the primary's answers are as without it."""
    mesh = make_mesh([_route()])
    mesh.backends["two"].state["error"] = error

    for _ in range(5):
        assert (await mesh.table.infer(ask("fraud"), Call())).model_name == "fraud"
        await settle()

    assert mesh.copies("failed") == 5


async def test_a_failing_primary_still_answers_its_own_error(make_mesh: Any, ask: Any, settle: Settle) -> None:
    """The candidate's success hides nothing: the caller gets the primary's error."""
    mesh = make_mesh([_route()])
    mesh.backends["one"].state["error"] = Unavailable("primary away")

    with pytest.raises(Unavailable, match="primary away"):
        await mesh.table.infer(ask("fraud"), Call())
    await settle()

    assert mesh.copies("mirrored") == 1


async def test_a_caller_that_goes_away_takes_no_copy_along(make_mesh: Any, ask: Any, settle: Settle) -> None:
    """Cancelling the primary's call leaves the copy to end by itself."""
    mesh = make_mesh([_route()])
    mesh.backends["one"].state["wait"] = asyncio.Event()
    mesh.backends["two"].state["wait"] = go_on = asyncio.Event()
    primary = asyncio.ensure_future(mesh.table.infer(ask("fraud"), Call()))
    await settle()

    primary.cancel()
    go_on.set()
    await settle()

    assert primary.cancelled()
    assert mesh.copies("mirrored") == 1


async def test_large_requests_are_not_copied(make_mesh: Any, ask: Any, settle: Settle) -> None:
    """A request over the bound is skipped and counted: what waits for a slow candidate holds memory."""
    mesh = make_mesh([_route(max_request="1KiB")])
    large = ask("fraud", raw_input_contents=[bytes(2000)])

    await mesh.table.infer(large, Call())
    await settle()

    assert mesh.copies("skipped") == 1
    assert not mesh.backends["two"].asked


async def test_explanations_are_not_copied(make_mesh: Any, ask: Any, settle: Settle) -> None:
    """A shadow sees predictions alone: an explanation costs hundreds of them."""
    mesh = make_mesh([_route()])

    await mesh.table.infer(ask("fraud-explainer"), Call())
    await settle()

    assert not mesh.backends["two"].asked


async def test_a_reload_does_not_lift_the_bound(make_mesh: Any, ask: Any, settle: Settle) -> None:
    """Copies that are under way count against the bound of the new table too."""
    mesh = make_mesh([_route(max_in_flight=2)])
    mesh.backends["two"].state["wait"] = asyncio.Event()

    for _ in range(3):
        await mesh.table.infer(ask("fraud"), Call())
        await settle()
        mesh.table.swap(RoutesFile.model_validate({"routes": [_route(max_in_flight=2)]}))

    assert len(mesh.backends["two"].asked) == 2
    assert mesh.copies("shed") == 1


async def test_closing_ends_what_is_under_way(make_mesh: Any, ask: Any, settle: Settle) -> None:
    """When the gateway stops, copies are ended before the backends that they use."""
    mesh = make_mesh([_route()])
    mesh.backends["two"].state["wait"] = asyncio.Event()
    await mesh.table.infer(ask("fraud"), Call())
    await settle()

    async with asyncio.timeout(5):
        await mesh.table.close()

    assert mesh.copies("failed") == 1
