"""Which address of a backend a call goes to, and how its names are looked up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.errors import Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from tests.unit.transport.endpoint_parts import REQUEST, Names, ask, soon


async def test_each_address_gets_its_turn(serve: Any, remote: Any) -> None:
    """Round robin over all addresses that are ready."""
    servers = [await serve() for _ in range(3)]
    backend, watched = remote([each.target for each in servers])
    async with asyncio.timeout(5):
        while watched.now != (3, 0, 0):
            await ask(backend)
    before = [len(each.service.calls) for each in servers]

    for _ in range(30):
        await ask(backend)

    assert [len(each.service.calls) - was for each, was in zip(servers, before, strict=True)] == [10, 10, 10]


async def test_of_two_that_are_drawn_the_less_busy_is_taken(serve: Any, scripted: Any, remote: Any) -> None:
    """With p2c an address that answers slowly gets fewer calls."""
    go = asyncio.Event()

    async def slow(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await go.wait()
        return pb.ModelInferResponse(model_name=request.model_name)

    one, other = await serve(scripted(slow)), await serve()
    backend, watched = remote([one.target, other.target], balance="p2c")
    waiting = [asyncio.ensure_future(ask(backend, 20))]
    async with asyncio.timeout(5):
        while watched.now != (2, 0, 0) or not one.service.calls:
            waiting.append(asyncio.ensure_future(ask(backend, 20)))
            await asyncio.sleep(0.005)
    slow_one, quick_one = (backend._endpoints._all[each.target] for each in (one, other))
    async with asyncio.timeout(5):
        # Some are still on the way, or not answered yet: then the slow one is not the busier.
        while len(one.service.calls) < slow_one.in_flight or quick_one.in_flight:
            await asyncio.sleep(0.005)
    before = len(one.service.calls)

    for _ in range(40):
        await ask(backend)

    assert len(one.service.calls) == before
    go.set()
    await asyncio.gather(*waiting)


async def test_what_was_tried_is_asked_last(serve: Any, remote: Any) -> None:
    """Another attempt goes to another address while there is one, else to the same."""
    one, other = await serve(), await serve()
    backend, watched = remote([one.target, other.target])
    async with asyncio.timeout(5):
        while watched.now != (2, 0, 0):
            await ask(backend)
    before = len(one.service.calls)

    for _ in range(10):
        await backend.infer(REQUEST, soon(tried=(one.target,)))

    assert len(one.service.calls) == before
    await backend.infer(REQUEST, soon(tried=(one.target, other.target)))


async def test_a_name_that_changes_moves_the_calls(serve: Any, remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """New addresses are used, those that are gone get nothing more, and what they had under way is answered."""
    monkeypatch.setattr("infermesh.transport.endpoints.RESOLVE_AGAIN_S", 0.01)
    one, other = await serve(), await serve()
    names = Names(one.target)
    backend, watched = remote("models.test:8001", names, resolve_every="20ms")
    go = asyncio.Event()

    async def held(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await go.wait()
        return pb.ModelInferResponse(id="7")

    one.service.answer = held
    under_way = asyncio.ensure_future(ask(backend))
    async with asyncio.timeout(5):
        while not one.service.calls:
            await asyncio.sleep(0.001)

    names.addresses = [other.target]
    async with asyncio.timeout(5):
        while not other.service.calls:
            await asyncio.wait({asyncio.ensure_future(ask(backend, 0.05))})
    seen = len(one.service.calls)
    for _ in range(10):
        await ask(backend)
    go.set()

    assert (await under_way).id == "7"
    assert len(one.service.calls) == seen
    assert watched.now == (1, 0, 0)


async def test_a_name_that_can_t_be_looked_up_keeps_its_last_addresses(
    serve: Any, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS that fails takes nothing away; without any address calls are refused as not started, and work once it answers."""
    monkeypatch.setattr("infermesh.transport.endpoints.RESOLVE_AGAIN_S", 0.01)
    running, names = await serve(), Names()
    names.error = OSError("Temporary failure in name resolution")
    backend, watched = remote("models.test:8001", names, resolve_every="10ms")

    with pytest.raises(Unavailable, match=r"name resolution of models\.test:8001 failed: Temporary") as refused:
        await ask(backend)
    assert (refused.value.rejected, refused.value.hop) == (True, "backend")
    assert not await backend.ready()
    names.addresses, names.error = [running.target], None
    async with asyncio.timeout(5):
        while not await backend.ready():
            await asyncio.sleep(0.005)
    names.error = OSError("gone again")
    asked = names.asked
    async with asyncio.timeout(5):
        while names.asked < asked + 3:
            await asyncio.sleep(0.005)

    assert (await ask(backend)).id == "7"
    assert (watched.look_ups[0], watched.look_ups[-1]) == (False, False)


async def test_a_real_name_is_resolved(serve: Any, remote: Any) -> None:
    """`localhost` by the system's resolver; an address of it where nobody listens is left out."""
    running = await serve()
    backend, _ = remote(f"localhost:{running.server.port}")

    for _ in range(5):
        assert (await ask(backend)).id == "7"


async def test_a_name_that_does_not_exist_is_unavailable(remote: Any) -> None:
    """The text has the name and the system's words."""
    backend, _ = remote("no-such-host.invalid:8001")

    with pytest.raises(Unavailable, match=r"no-such-host\.invalid"):
        await ask(backend)


async def test_of_several_addresses_dead_ones_cost_no_call(serve: Any, remote: Any, unused_tcp_port: int) -> None:
    """An address where nobody ever listened fails no call, not even the first."""
    running = await serve()
    backend, watched = remote([f"127.0.0.1:{unused_tcp_port}", running.target])

    for _ in range(20):
        assert (await ask(backend)).id == "7"

    assert watched.now == (1, 0, 1)
