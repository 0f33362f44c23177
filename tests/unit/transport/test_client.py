"""What is particular to a service on the other side of a channel; what it shares with any service is in tests/contract."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import grpc
import pytest

from infermesh.call import Call, Caller
from infermesh.config import BackendConfig
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, Internal, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from infermesh.transport import RemoteService

REQUEST = pb.ModelInferRequest(model_name="m", id="7")


def remote(target: str, **options: Any) -> RemoteService:
    return RemoteService(BackendConfig(target=target, **options), "backend")


@pytest.fixture
async def garbage() -> Any:
    """A server whose every answer is bytes that are no message, or whatever a test puts there."""
    server = grpc.aio.server()
    answer = [b"\xff\xff"]

    async def unary(request: bytes, context: Any) -> bytes:
        return answer[0]

    async def stream(requests: Any, context: Any) -> Any:
        async for _ in requests:
            yield answer[0]

    methods: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(unary) for name in ("ModelInfer", "ModelMetadata", "RepositoryIndex")
    }
    methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    backend = remote(f"127.0.0.1:{port}")
    yield backend, answer
    await backend.close()
    await server.stop(0)


@pytest.fixture
async def nobody(unused_tcp_port: int) -> Any:
    """A backend where nobody listens."""
    backend = remote(f"127.0.0.1:{unused_tcp_port}")
    yield backend
    await backend.close()


async def test_a_backend_that_is_away_is_unavailable_and_started_nothing(nobody: RemoteService) -> None:
    """The error names the backend and is safe to try elsewhere; readiness is just false."""
    call = Call(deadline=Deadline.after(5))

    for failing in (
        nobody.infer(REQUEST, call),
        anext(nobody.stream(REQUEST, call)),
        nobody.metadata(pb.ModelMetadataRequest(name="m"), call),
    ):
        with pytest.raises(Unavailable, match="backend: ") as error:
            await failing
        assert (error.value.rejected, error.value.hop) == (True, "backend")

    assert not await nobody.ready()
    assert not await nobody.ready("m")


async def test_no_time_left_is_not_even_sent(nobody: RemoteService) -> None:
    """A call whose deadline has passed is refused here, as not started."""
    call = Call(deadline=Deadline.after(-1))

    for failing in (
        nobody.infer(REQUEST, call),
        anext(nobody.stream(REQUEST, call)),
        nobody.index(pb.RepositoryIndexRequest(), call),
    ):
        with pytest.raises(DeadlineExceeded, match="backend: no time left") as error:
            await failing
        assert error.value.rejected


async def test_an_answer_that_is_no_message_is_the_backends_fault(garbage: Any) -> None:
    """INTERNAL names the backend and what was expected; it is no traceback of protobuf's."""
    backend, _ = garbage

    for failing in (
        backend.infer(REQUEST, Call()),
        anext(backend.stream(REQUEST, Call())),
        backend.metadata(pb.ModelMetadataRequest(name="m"), Call()),
        backend.index(pb.RepositoryIndexRequest(), Call()),
    ):
        with pytest.raises(Internal, match="backend: its answer is no inference") as error:
            await failing
        assert (error.value.reason, error.value.hop) == ("BACKEND_GARBAGE", "backend")


async def test_a_foreign_servers_failure_in_a_stream_is_an_error(garbage: Any) -> None:
    """Triton's in-stream failure has a text alone."""
    backend, answer = garbage
    answer[0] = pb.ModelStreamInferResponse(error_message="no such model").SerializeToString()

    with pytest.raises(Internal, match="no such model") as error:
        await anext(backend.stream(REQUEST, Call()))

    assert error.value.hop == "backend"


async def test_a_foreign_server_that_lacks_an_rpc_is_unimplemented(garbage: Any) -> None:
    """grpc's own answer passes with its code."""
    backend, _ = garbage

    with pytest.raises(Exception, match="Method not found") as error:
        await backend.load(pb.RepositoryModelLoadRequest(model_name="m"), Call())

    assert error.value.code == "UNIMPLEMENTED"  # type: ignore[attr-defined]


async def test_calls_in_flight_when_the_channel_closes_are_unavailable(
    serve: Any, scripted: Any, eventually: Any
) -> None:
    """Nobody cancelled them, so cancelled is not what they become; later calls are refused the same way."""
    never = asyncio.Event()

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await never.wait()
        return pb.ModelInferResponse()

    running = await serve(scripted(answer))
    backend = remote(running.target)
    infer = asyncio.ensure_future(backend.infer(REQUEST, Call()))
    stream = asyncio.ensure_future(anext(backend.stream(REQUEST, Call())))
    await eventually(lambda: running.server.in_flight == 2)

    await backend.close()

    for failing in (
        infer,
        stream,
        backend.infer(REQUEST, Call()),
        anext(backend.stream(REQUEST, Call())),
        backend.index(pb.RepositoryIndexRequest(), Call()),
    ):
        with pytest.raises(Unavailable, match="backend: its channel was closed"):
            await failing
    assert not await backend.ready()
    assert not await backend.ready("m")


async def test_a_variant_shares_the_channel_and_leaves_it_open(serve: Any) -> None:
    """Closing one view of a backend closes nothing for the others."""
    running = await serve()
    canary = running.remote.variant(version="2")

    await canary.infer(REQUEST, Call())
    await canary.close()
    await running.remote.infer(REQUEST, Call())

    assert [r.model_version for r in running.service.requests] == ["2", ""]
    assert repr(canary) == "RemoteService(backend version 2)"


async def test_another_model_may_be_asked_in_the_callers_name(serve: Any) -> None:
    """An alias goes out with its own name; the caller's request keeps the name that it had."""
    running = await serve()
    alias, request = running.remote.variant(model="real"), pb.ModelInferRequest(model_name="m", id="7")

    await alias.infer(request, Call())
    told = await alias.metadata(pb.ModelMetadataRequest(name="m"), Call())

    assert running.service.requests[0].model_name == told.name == "real"
    assert request == REQUEST


@pytest.mark.parametrize(("left", "margin", "seen"), [(10.0, "2s", 8.0), (1.0, "5s", 0.5), (math.inf, "2s", math.inf)])
async def test_a_margin_of_the_deadline_is_kept_for_the_way_home(
    serve: Any, left: float, margin: str, seen: float
) -> None:
    """The next hop sees less than we have, yet at least half of it."""
    running = await serve()
    backend = remote(running.target, margin=margin)

    await backend.infer(REQUEST, Call(deadline=Deadline.after(left)))

    assert running.service.calls[0].deadline.remaining() == pytest.approx(seen, abs=0.3)
    await backend.close()


async def test_a_backend_that_comes_back_is_used_again(serve: Any) -> None:
    """A channel finds its backend again within about a second, without being made anew."""
    first = await serve()
    backend = remote(first.target)
    await backend.infer(REQUEST, Call())
    await first.server.stop(0)
    with pytest.raises(Unavailable):
        await backend.infer(REQUEST, Call(deadline=Deadline.after(2)))

    await serve(grpc_port=first.server.port)

    async with asyncio.timeout(5):
        while not await backend.ready():
            await asyncio.sleep(0.02)
    assert (await backend.infer(REQUEST, Call())).id == "7"
    await backend.close()


async def test_calls_are_spread_over_all_addresses(serve: Any) -> None:
    """One connection does not stick to one replica, and a replica that leaves costs no call."""
    one, two = await serve(), await serve()
    backend = remote([one.target, two.target])  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        while not (one.service.calls and two.service.calls):
            await backend.infer(REQUEST, Call(deadline=Deadline.after(2)))

    await one.server.stop(1)
    for _ in range(20):
        await backend.infer(REQUEST, Call(deadline=Deadline.after(2)))

    assert len(two.service.calls) >= 20
    await backend.close()


async def test_a_name_in_any_letters_reaches_the_next_hop(serve: Any) -> None:
    """A variant or tenant that gRPC could not carry as it is makes no call fail."""
    running = await serve()

    await running.remote.infer(REQUEST, Call(variant="münchen", caller=Caller(tenant="50 %\n")))

    seen = running.service.calls[0]
    assert (seen.variant, seen.caller.tenant) == ("münchen", "50 %\n")


class Kept(InferenceService, ModelRepository):
    """Keeps how long each RPC may take."""

    def __init__(self) -> None:
        self.left: dict[str, float] = {}

    async def metadata(self, request: Any, call: Call) -> Any:
        self.left["metadata"] = call.deadline.remaining()
        return pb.ModelMetadataResponse()

    async def index(self, request: Any, call: Call) -> Any:
        self.left["index"] = call.deadline.remaining()
        return pb.RepositoryIndexResponse()

    async def load(self, request: Any, call: Call) -> Any:
        self.left["load"] = call.deadline.remaining()
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: Any, call: Call) -> Any:
        self.left["unload"] = call.deadline.remaining()
        return pb.RepositoryModelUnloadResponse()

    async def config(self, request: Any, call: Call) -> Any:
        self.left["config"] = call.deadline.remaining()
        return pb.ModelConfigResponse()

    async def statistics(self, request: Any, call: Call) -> Any:
        self.left["statistics"] = call.deadline.remaining()
        return pb.ModelStatisticsResponse()


async def test_what_is_asked_without_a_deadline_has_an_end_all_the_same(serve: Any) -> None:
    """A backend that never answers costs ten seconds, and five minutes where it is to load a model; a deadline is kept."""
    running = await serve(Kept())
    backend, left = running.remote, running.service.left

    for call, short, long in ((Call(), 10, 300), (Call(deadline=Deadline.after(60)), 60, 60)):
        await backend.metadata(pb.ModelMetadataRequest(), call)
        await backend.index(pb.RepositoryIndexRequest(), call)
        await backend.config(pb.ModelConfigRequest(), call)
        await backend.statistics(pb.ModelStatisticsRequest(), call)
        await backend.load(pb.RepositoryModelLoadRequest(), call)
        await backend.unload(pb.RepositoryModelUnloadRequest(), call)

        for rpc in ("metadata", "index", "config", "statistics"):
            assert left[rpc] == pytest.approx(short, abs=1), rpc
        for rpc in ("load", "unload"):
            assert left[rpc] == pytest.approx(long, abs=2), rpc


async def test_the_mesh_goes_through_no_proxy(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy for the way out of a cluster does not stand between its services."""
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    running = await serve()
    backend = remote(running.target)

    assert (await backend.infer(REQUEST, Call(deadline=Deadline.after(5)))).id == "7"

    await backend.close()
