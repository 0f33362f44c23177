"""The gRPC server of a service: what it offers, and how it leaves."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from infermesh.call import Call
from infermesh.config import PortTaken, ServerConfig
from infermesh.errors import NotFound, Unauthenticated
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService
from infermesh.transport import Server

REQUEST = pb.ModelInferRequest(model_name="m", id="7")


def gate() -> tuple[asyncio.Event, asyncio.Event, Any]:
    """An answer that says when it has begun and waits to be let go."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        begun.set()
        await go.wait()
        return pb.ModelInferResponse(id=request.id)

    return begun, go, answer


async def test_before_a_service_is_mounted_calls_are_unavailable(serve: Any) -> None:
    """A replica that starts says so, with a pushback; `live` is true already."""
    running = await serve(ready=False)

    for rpc, message in (("ModelInfer", REQUEST), ("ModelMetadata", pb.ModelMetadataRequest(name="m"))):
        with pytest.raises(grpc.aio.AioRpcError, match="tested: starting") as error:
            await getattr(running.stub, rpc)(message)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(error.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"

    assert (await running.stub.ServerLive(pb.ServerLiveRequest())).live
    assert not (await running.stub.ServerReady(pb.ServerReadyRequest())).ready


async def test_a_ready_server_tells_what_it_is(serve: Any) -> None:
    """ServerReady, ServerMetadata and ModelReady answer once a service is there."""
    running = await serve()

    told = await running.stub.ServerMetadata(pb.ServerMetadataRequest())

    assert (told.name, list(told.extensions)[:1]) == ("infermesh-tested", ["model_repository"])
    assert (await running.stub.ServerReady(pb.ServerReadyRequest())).ready
    assert (await running.stub.ModelReady(pb.ModelReadyRequest(name="m"))).ready


async def test_a_model_without_a_name_is_not_ready_but_wrong(serve: Any) -> None:
    """ModelReady for an empty name would otherwise tell of the whole server."""
    running = await serve()

    with pytest.raises(grpc.aio.AioRpcError, match="model name: expected") as error:
        await running.stub.ModelReady(pb.ModelReadyRequest())

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_reflection_lists_what_is_served(serve: Any) -> None:
    """grpcurl works without files: services are listed and described."""
    running = await serve()
    talk = reflection_pb2_grpc.ServerReflectionStub(running.channel).ServerReflectionInfo()

    await talk.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {s.name for s in (await talk.read()).list_services_response.service}
    await talk.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"))
    described = await talk.read()
    await talk.done_writing()

    assert names == {
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert described.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize(
    "rpc",
    [
        "SystemSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
async def test_what_is_not_offered_says_what_to_do_instead(serve: Any, rpc: str) -> None:
    """UNIMPLEMENTED with a sentence, by the name of the RPC."""
    running = await serve()

    with pytest.raises(grpc.aio.AioRpcError, match=f"{rpc} is not offered: ") as error:
        await running.channel.unary_unary(f"/inference.GRPCInferenceService/{rpc}")(b"")

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_that_is_taken_is_said(serve: Any) -> None:
    """Two servers never share a port in silence."""
    running = await serve()
    second = Server("second", ServerConfig(host="127.0.0.1", grpc_port=running.server.port), inside_mesh=True)

    with pytest.raises(PortTaken, match=f"gRPC port 127.0.0.1:{running.server.port} can't be listened on"):
        await second.start()

    await second.stop(0)


async def test_more_calls_than_the_bound_are_refused_at_once(serve: Any, scripted: Any, eventually: Any) -> None:
    """Past `max_in_flight` the answer is RESOURCE_EXHAUSTED with a pushback; a place that is free again is used."""
    begun, go, answer = gate()
    running = await serve(scripted(answer), max_in_flight=2)
    waiting = [asyncio.ensure_future(running.stub.ModelInfer(REQUEST)) for _ in range(2)]
    await eventually(lambda: running.server.in_flight == 2)

    with pytest.raises(grpc.aio.AioRpcError, match="2 calls are in flight, which is the bound") as error:
        await running.stub.ModelInfer(REQUEST)
    go.set()
    await asyncio.gather(*waiting)

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-retry-pushback-ms" in dict(error.value.trailing_metadata())
    assert (await running.stub.ModelInfer(REQUEST)).id == "7"
    assert running.server.in_flight == 0
    assert begun.is_set()


async def test_failed_and_cancelled_calls_leave_no_place_taken(serve: Any, scripted: Any, eventually: Any) -> None:
    """`in_flight` comes back to 0 however calls end, and a cancelled call is cancelled in the service."""
    never = asyncio.Event()

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if request.id == "fail":
            raise NotFound("gone")
        await never.wait()
        return pb.ModelInferResponse()

    service = scripted(answer)
    running = await serve(service)

    with pytest.raises(grpc.aio.AioRpcError):
        await running.stub.ModelInfer(pb.ModelInferRequest(id="fail"))
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await running.stub.ModelInfer(REQUEST, timeout=0.05)
    call = running.stub.ModelInfer(REQUEST)
    await eventually(lambda: len(service.calls) == 3)
    call.cancel()

    await eventually(lambda: service.cancelled == 2)
    await eventually(lambda: running.server.in_flight == 0)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_calls_that_were_accepted_are_answered_when_it_stops(serve: Any, scripted: Any, eventually: Any) -> None:
    """Within the grace every accepted call gets its answer; a later one ends UNAVAILABLE before its deadline."""
    _, go, answer = gate()
    running = await serve(scripted(answer))
    accepted = [asyncio.ensure_future(running.stub.ModelInfer(REQUEST)) for _ in range(20)]
    await eventually(lambda: running.server.in_flight == 20)

    stopping = asyncio.ensure_future(running.server.stop(5))
    await asyncio.sleep(0.05)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.stub.ModelInfer(REQUEST, timeout=2)
    go.set()
    answers = await asyncio.gather(*accepted)
    await stopping

    assert [a.id for a in answers] == ["7"] * 20
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_error_is_an_answer_too_while_it_stops(serve: Any, scripted: Any, eventually: Any) -> None:
    """A call that was accepted and fails after the stop began still gets its own status, not one of the shutdown's."""
    go = asyncio.Event()

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await go.wait()
        raise NotFound("gone")

    running = await serve(scripted(answer))
    accepted = [asyncio.ensure_future(running.stub.ModelInfer(REQUEST)) for _ in range(5)]
    await eventually(lambda: running.server.in_flight == 5)

    stopping = asyncio.ensure_future(running.server.stop(5))
    await asyncio.sleep(0.02)
    go.set()
    ends = await asyncio.gather(*accepted, return_exceptions=True)
    await stopping

    assert [(e.code(), e.details()) for e in ends] == [(grpc.StatusCode.NOT_FOUND, "gone")] * 5  # type: ignore[union-attr]


async def test_a_call_that_outlasts_the_grace_is_ended(serve: Any, scripted: Any, eventually: Any) -> None:
    """The grace is a bound: what still runs is cancelled, in the service too."""
    _, _, answer = gate()
    service = scripted(answer)
    running = await serve(service)
    call = asyncio.ensure_future(running.stub.ModelInfer(REQUEST))
    await eventually(lambda: running.server.in_flight == 1)

    await running.server.stop(0.05)

    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await call
    await eventually(lambda: service.cancelled == 1)


async def test_those_who_only_watch_do_not_hold_it(serve: Any, scripted: Any) -> None:
    """Health watchers, reflection and idle streams end at once with UNAVAILABLE, long before the grace is over."""
    running = await serve()
    watch = health_pb2_grpc.HealthStub(running.channel).Watch(HealthCheckRequest())
    await watch.read()
    reflect = reflection_pb2_grpc.ServerReflectionStub(running.channel).ServerReflectionInfo()
    await reflect.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await reflect.read()
    stream = running.stub.ModelStreamInfer()
    await stream.write(REQUEST)
    assert (await stream.read()).infer_response.id == "7"

    started = time.monotonic()
    await running.server.stop(20)

    assert time.monotonic() - started < 2
    for call in (watch, reflect, stream):
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_is_answered_as_far_as_it_was_read(serve: Any, scripted: Any, eventually: Any) -> None:
    """When the server leaves, what a stream had sent is answered before it ends with UNAVAILABLE."""
    _, go, answer = gate()
    running = await serve(scripted(answer))
    stream = running.stub.ModelStreamInfer()
    for number in range(3):
        await stream.write(pb.ModelInferRequest(id=str(number)))
    await eventually(lambda: running.server.in_flight == 3)

    stopping = asyncio.ensure_future(running.server.stop(5))
    await asyncio.sleep(0.01)
    go.set()
    answers = [await stream.read() for _ in range(3)]

    assert [a.infer_response.id for a in answers] == ["0", "1", "2"]
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE
    await stopping


async def test_stopping_twice_is_stopping_once(serve: Any) -> None:
    """The second time there is nothing left to do."""
    running = await serve()

    await running.server.stop(1)
    await running.server.stop(1)


async def test_a_server_that_never_started_can_be_stopped() -> None:
    """A port that was taken leaves nothing behind that fails on the way out."""
    await Server("idle", ServerConfig(host="127.0.0.1", grpc_port=0), inside_mesh=True).stop(0)


async def test_connections_are_closed_gently_at_their_age(serve: Any, scripted: Any) -> None:
    """With a maximum age, calls go on over a new connection and none fails."""
    running = await serve(scripted(), max_connection_age="100ms")

    async with asyncio.timeout(5):
        for _ in range(60):
            assert (await running.stub.ModelInfer(REQUEST)).id == "7"
            await asyncio.sleep(0.005)

    assert len({call.peer for call in running.service.calls}) > 1


async def test_a_call_outlasts_the_connection_that_brought_it(serve: Any, scripted: Any) -> None:
    """The age of a connection, and the grace that a stop has, end no call that was accepted over it."""

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await asyncio.sleep(0.4)
        return pb.ModelInferResponse(id=request.id)

    running = await serve(scripted(answer), max_connection_age="50ms", grace="50ms")

    assert (await running.stub.ModelInfer(REQUEST)).id == "7"


class Closed(InferenceService):
    """Admits nobody."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        self.asked.append((rpc, model))
        raise Unauthenticated("no key")


OFFERED = [
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
    "RepositoryIndex",
    "ModelConfig",
]
NOT_OFFERED = ["SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "TraceSetting", "LogSettings"]


@pytest.mark.parametrize(
    ("rpc", "data"), [(rpc, b"\xff\xff\xff") for rpc in OFFERED + NOT_OFFERED] + [(rpc, b"") for rpc in NOT_OFFERED]
)
async def test_credentials_come_before_the_message(serve: Any, rpc: str, data: bytes) -> None:
    """Who has none is told so, and not what is wrong with its bytes, or which RPCs there are."""
    running = await serve(Closed())

    with pytest.raises(grpc.aio.AioRpcError, match="no key") as error:
        await running.channel.unary_unary(f"/inference.GRPCInferenceService/{rpc}")(data)

    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert running.service.asked == [(rpc, "")]


async def test_a_message_of_a_stream_that_is_none_is_one_failure(serve: Any) -> None:
    """Garbage is answered in its turn, and the stream goes on."""
    running = await serve()
    stream = running.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()

    await stream.write(b"\xff\xff\xff")
    await stream.write(REQUEST.SerializeToString())
    garbage, good = [pb.ModelStreamInferResponse.FromString(await stream.read()) for _ in range(2)]

    assert garbage.error_message == "ModelStreamInfer: the 3 bytes of the request are no protobuf message"
    assert garbage.infer_response.parameters["infermesh_code"].string_param == "INVALID_ARGUMENT"
    assert (good.error_message, good.infer_response.id) == ("", "7")


async def test_whether_the_process_lives_is_told_to_everyone(serve: Any) -> None:
    """ServerLive asks for no credentials, whatever comes with it."""
    running = await serve(Closed())

    with pytest.raises(grpc.aio.AioRpcError, match="no protobuf message"):
        await running.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"\xff\xff\xff")

    assert (await running.stub.ServerLive(pb.ServerLiveRequest())).live
    assert running.service.asked == []
