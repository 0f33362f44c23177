"""What filters tell a caller beside the answer."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from infermesh.call import Call
from infermesh.errors import NotFound, ResourceExhausted
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import Filter, stack

MODEL = "m"


class Telling(Filter):
    """Tells a key and a value beside each answer, where somebody listens."""

    def __init__(self, key: str, value: str) -> None:
        self.key, self.value = key, value

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        if call.trailing is not None:
            call.trailing.setdefault(self.key, f"{self.value} {model}".strip())


def _ask(model: str = MODEL) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=model, id="1")


async def test_every_rpc_carries_what_filters_tell(serve: Any) -> None:
    """An inference and any other RPC end with it in their trailing metadata; the answer is as it was."""
    running = await serve(inside_mesh=False)
    running.server.mount(stack(Telling("x-left", "3"), Telling("x-other", "a"), service=running.service))

    for rpc, request in [
        ("ModelInfer", _ask()),
        ("ModelMetadata", pb.ModelMetadataRequest(name=MODEL)),
        ("ModelReady", pb.ModelReadyRequest(name=MODEL)),
    ]:
        asked = getattr(running.stub, rpc)(request, timeout=10)
        await asked

        told = dict(await asked.trailing_metadata())
        assert (told["x-left"], told["x-other"]) == ("3 m", "a m")


async def test_an_error_carries_it_beside_its_own(serve: Any) -> None:
    """What a status says of itself is not replaced by what a filter tells, and no key goes out twice."""

    async def fail(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        raise ResourceExhausted("enough", retry_after_s=0.5)

    running = await serve(inside_mesh=False)
    running.service.answer = fail
    filters = Telling("x-left", "3"), Telling("grpc-retry-pushback-ms", "9")
    running.server.mount(stack(*filters, service=running.service))

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await running.stub.ModelInfer(_ask(), timeout=10)

    trailing = list(failed.value.trailing_metadata())
    assert ("x-left", "3 m") in trailing
    assert [value for key, value in trailing if key == "grpc-retry-pushback-ms"] == ["500"]


async def test_a_stream_ends_with_what_was_told_of_its_last_request(serve: Any) -> None:
    """Answers of a stream have no metadata of their own: the end has the last state, also where that request failed."""

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if request.model_name == "bad":
            raise NotFound("no such model")
        return pb.ModelInferResponse(model_name=request.model_name)

    running = await serve(inside_mesh=False)
    running.service.answer = answer
    running.server.mount(stack(Telling("x-left", "3"), service=running.service))

    for models in (["a", "bad", "b"], ["a", "b", "bad"]):
        asked = running.stub.ModelStreamInfer(iter([_ask(model) for model in models]), timeout=10)
        answers = [answer async for answer in asked]

        assert len(answers) == 3
        assert dict(await asked.trailing_metadata())["x-left"] == f"3 {models[-1]}"


async def test_an_empty_stream_tells_nothing(serve: Any) -> None:
    """Without a request there is nothing that a filter could have told."""
    running = await serve(inside_mesh=False)
    running.server.mount(stack(Telling("x-left", "3"), service=running.service))

    asked = running.stub.ModelStreamInfer(iter([]), timeout=10)

    assert [answer async for answer in asked] == []
    assert "x-left" not in dict(await asked.trailing_metadata())


async def test_hops_inside_the_mesh_tell_nothing(serve: Any) -> None:
    """Only the edge has callers to tell: there a filter finds nobody who listens."""
    running = await serve(inside_mesh=True)
    running.server.mount(stack(Telling("x-left", "3"), service=running.service))

    asked = running.stub.ModelInfer(_ask(), timeout=10)
    await asked

    assert "x-left" not in dict(await asked.trailing_metadata())
    assert running.service.calls[0].trailing is None


async def test_what_a_hop_below_tells_stays_there(serve: Any) -> None:
    """The trailing metadata of a backend is about its own caller, which is this hop: it is not passed on."""
    below = await serve(inside_mesh=False)
    below.server.mount(stack(Telling("x-below", "1"), Telling("x-left", "1"), service=below.service))
    edge = await serve(inside_mesh=False)
    edge.server.mount(stack(Telling("x-left", "3"), service=below.remote))

    asked = edge.stub.ModelInfer(_ask(), timeout=10)
    await asked

    told = dict(await asked.trailing_metadata())
    assert (told["x-left"], "x-below" in told) == ("3 m", False)


async def test_calls_never_share_what_is_told(serve: Any) -> None:
    """Each call has its own; a copy that a filter makes of it tells the same caller, a shadow's tells nobody."""
    running = await serve(inside_mesh=False)
    for _ in range(2):
        await running.stub.ModelInfer(_ask(), timeout=10)

    first, second = running.service.calls
    assert first.trailing == second.trailing == {}
    assert first.trailing is not second.trailing
    assert first.derive(variant="a").trailing is first.trailing
    assert first.derive(shadow=True).trailing is None
