"""NET: large messages, deadlines, cancellation, compression, many streams on one channel, drain."""

from __future__ import annotations

import asyncio
import os
import signal

import grpc
import pytest
from conformance_cases import BACKENDS, Subject, case, waited
from conformance_wire import WAIT_S, Client, Target, Value, answer, infer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc

ABANDONED = 32  # calls of a second each: a server that goes on working for them is busy for long
SOON_S = 8.0  # far less than the abandoned calls take on a few cores

STREAMS = 1000


@case("NET-large", hops=BACKENDS)
def test_a_message_below_the_limit_is_served(client: Client) -> None:
    """A request and a response of 63 MiB pass."""
    elements = (63 << 20) // 4
    sent = Value("x", "FP32", (elements,), b"\x01\x02\x03\x04" * elements)

    assert answer(client.infer(infer("conf-echo-fp32", sent)))["y"].raw == sent.raw


@case("NET-deadline")
def test_nothing_goes_on_working_for_a_caller_whose_deadline_passed(client: Client, subject: Subject) -> None:
    """Many long calls end at their deadline, and a call after them does not have to wait for what they asked for."""
    late = waited([client.start("ModelInfer", subject.long_request(), timeout=0.1) for _ in range(ABANDONED)])

    after = client.infer(_short(subject), timeout=SOON_S)

    assert {one.code() for one in late if isinstance(one, grpc.RpcError)} <= {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # of a queue that is full
    }
    assert after.id == "short"


@case("NET-cancel")
def test_nothing_goes_on_working_for_a_caller_who_has_left(client: Client, subject: Subject) -> None:
    """Many long calls are cancelled, and a call after them does not have to wait for what they asked for."""
    calls = [client.start("ModelInfer", subject.long_request()) for _ in range(ABANDONED)]
    client.call("ServerLive", pb.ServerLiveRequest())  # the calls before it on the connection have come too
    for call in calls:
        call.cancel()
    waited(calls)

    assert client.infer(_short(subject), timeout=SOON_S).id == "short"


@case("NET-cancel-stream")
def test_a_stream_that_its_caller_leaves_harms_nobody(client: Client, subject: Subject) -> None:
    """A stream that is cancelled in the middle leaves the server and the channel serving."""
    stream = client.stream(subject.request(request_id=str(number)) for number in range(50))
    first = next(stream)
    stream.cancel()

    assert first.infer_response.id == "0"
    assert client.infer(subject.request(request_id="after")).id == "after"


@case("NET-disconnect")
def test_a_connection_that_breaks_off_harms_nobody(client: Client, target: Target, subject: Subject) -> None:
    """A caller whose connection ends with calls under way leaves the server serving others."""
    other = Client(target)
    calls = [other.start("ModelInfer", subject.long_request()) for _ in range(8)]
    other.call("ServerLive", pb.ServerLiveRequest())
    other.close()
    waited(calls)

    assert client.infer(_short(subject), timeout=SOON_S).id == "short"


@case("NET-compression", each={"algorithm": ("Gzip", "Deflate")})
def test_a_compressed_request_is_served(target: Target, subject: Subject, algorithm: str) -> None:
    """A request that is compressed gets the answer that it gets uncompressed."""
    client = Client(target, {"compression": grpc.Compression[algorithm]})

    response = client.infer(subject.request(rows=100, request_id="compressed"))
    client.close()

    assert response.id == "compressed"
    assert tuple(answer(response)) == subject.outputs


@case("NET-compressed-limit")
def test_the_limit_counts_what_a_message_unpacks_to(target: Target, subject: Subject) -> None:
    """A small compressed message that unpacks to more than 64 MiB is RESOURCE_EXHAUSTED."""
    client = Client(target, {"compression": grpc.Compression.Gzip})
    request = subject.request(parameters={"filling": pb.InferParameter(string_param="x" * (65 << 20))})

    with pytest.raises(grpc.RpcError) as refused:
        client.infer(request)
    after = client.infer(subject.request(request_id="after"))
    client.close()

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert after.id == "after"


@case("NET-calls")
def test_a_thousand_calls_on_one_channel_are_answered(client: Client, subject: Subject) -> None:
    """A thousand calls at the same time on one channel all get their own answer."""
    outcomes = waited(
        [client.start("ModelInfer", subject.request(request_id=str(at)), 2 * WAIT_S) for at in range(STREAMS)]
    )

    assert [getattr(outcome, "id", outcome) for outcome in outcomes] == [str(at) for at in range(STREAMS)]


@case("NET-streams")
def test_a_thousand_streams_on_one_channel_are_open_at_once(client: Client, subject: Subject) -> None:
    """A thousand streams are open at the same time on one channel, and each gets its own answers."""

    async def one(stub: open_inference_pb2_grpc.GRPCInferenceServiceStub, at: int, all_open: asyncio.Barrier) -> str:
        call = stub.ModelStreamInfer(metadata=client.metadata(), timeout=2 * WAIT_S)
        await call.write(subject.request(request_id=f"{at} first"))
        first = await call.read()
        await all_open.wait()
        await call.write(subject.request(request_id=f"{at} second"))
        second = await call.read()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        return f"{first.infer_response.id}, {second.infer_response.id}"

    async def all_of_them() -> list[str]:
        all_open = asyncio.Barrier(STREAMS)
        async with grpc.aio.insecure_channel(client.target.address) as channel:
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            async with asyncio.timeout(2 * WAIT_S):
                return await asyncio.gather(*(one(stub, at, all_open) for at in range(STREAMS)))

    assert asyncio.run(all_of_them()) == [f"{at} first, {at} second" for at in range(STREAMS)]


@case("NET-drain", needs="pid")
def test_a_server_that_is_told_to_end_answers_what_it_accepted(
    client: Client, target: Target, subject: Subject
) -> None:
    """After SIGTERM health says so, every call under way is answered, and a later one is answered or UNAVAILABLE."""
    watch = health_pb2_grpc.HealthStub(client.channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    under_way = [client.start("ModelInfer", subject.long_request()) for _ in range(4)]
    client.call("ServerLive", pb.ServerLiveRequest())  # the calls before it on the connection have come too

    os.kill(target.pid, signal.SIGTERM)
    told = next(watch).status
    later = [client.start("ModelInfer", subject.request()) for _ in range(20)]
    outcomes = waited(under_way)

    assert told == health_pb2.HealthCheckResponse.NOT_SERVING
    assert all(isinstance(outcome, pb.ModelInferResponse) for outcome in outcomes), outcomes
    for outcome in waited(later):
        assert isinstance(outcome, pb.ModelInferResponse) or outcome.code() is grpc.StatusCode.UNAVAILABLE, outcome


def _short(subject: Subject) -> pb.ModelInferRequest:
    """A request for the model that the long ones keep busy, that asks for next to no work."""
    if subject.model != "conf-sum":
        return subject.request(rows=1, request_id="short")
    return infer("conf-slow", Value("n", "INT64", (1,), bytes(8)), request_id="short")
