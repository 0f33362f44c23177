"""SVC: the services on the port, what is not implemented, health, reflection, unknown fields and the stream."""

from __future__ import annotations

from queue import SimpleQueue

import grpc
import pytest
from conformance_cases import NOT_IMPLEMENTED, Subject, case, check_refusal
from conformance_wire import SERVICE, WAIT_S, Client, answer
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from infermesh.protocol import open_inference_pb2 as pb

OIP_RPCS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")

# Field 1999, length-delimited: no message of the contract has it.
UNKNOWN_FIELD = b"\xfa\x7c\x07unknown"


@case("SVC-metadata")
def test_server_metadata_names_the_server(client: Client) -> None:
    """ServerMetadata gives a name and a version."""
    metadata = client.call("ServerMetadata", pb.ServerMetadataRequest())

    assert metadata.name
    assert metadata.version


@case("SVC-unimplemented", each={"rpc": NOT_IMPLEMENTED})
def test_rpcs_that_are_only_declared_say_so(client: Client, rpc: str) -> None:
    """A shared-memory, trace or log RPC answers UNIMPLEMENTED with a sentence."""
    request = getattr(pb, f"{rpc}Request")()

    with pytest.raises(grpc.RpcError) as refused:
        client.call(rpc, request)

    check_refusal(refused.value, grpc.StatusCode.UNIMPLEMENTED)
    assert len(refused.value.details().split()) > 3
    assert refused.value.details() != "Method not implemented!", "the text of the generated code says nothing"


@case("SVC-unknown-method", each={"path": (f"/{SERVICE}/ModelDream", "/inference.NoSuchService/ModelInfer")})
def test_an_unknown_method_is_unimplemented(client: Client, path: str) -> None:
    """A method or a service that does not exist answers UNIMPLEMENTED."""
    with pytest.raises(grpc.RpcError) as refused:
        client.send(path, b"")

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@case("SVC-health-check", each={"service": ("", "live", SERVICE)})
def test_health_check_says_serving(client: Client, service: str) -> None:
    """Health Check answers SERVING for the server, for the process and for the inference service, without a key."""
    answered = _health(client).Check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S)

    assert answered.status == health_pb2.HealthCheckResponse.SERVING


@case("SVC-health-unknown")
def test_health_check_of_an_unknown_service_is_not_found(client: Client) -> None:
    """Health Check of a service that is not served answers NOT_FOUND."""
    with pytest.raises(grpc.RpcError) as refused:
        _health(client).Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=WAIT_S)

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@case("SVC-health-watch", each={"service": ("", "live", SERVICE)})
def test_health_watch_says_serving_at_once(client: Client, service: str) -> None:
    """Health Watch sends the state that holds now as its first message."""
    watch = _health(client).Watch(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S)

    first = next(watch)
    watch.cancel()

    assert first.status == health_pb2.HealthCheckResponse.SERVING


@case("SVC-health-watch-unknown")
def test_health_watch_of_an_unknown_service_stays_open(client: Client) -> None:
    """Health Watch of a service that is not served says SERVICE_UNKNOWN, and does not end: the service may come."""
    watch = _health(client).Watch(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=WAIT_S)

    first = next(watch)
    open_after_it = watch.is_active()
    watch.cancel()

    assert first.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert open_after_it


@case("SVC-reflection-services")
def test_reflection_lists_the_services(client: Client) -> None:
    """Reflection lists the inference service and the health service, without a key."""
    answered = _reflect(client, reflection_pb2.ServerReflectionRequest(list_services=""))

    names = {service.name for service in answered.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


@case("SVC-reflection-file")
def test_reflection_yields_the_file_that_declares_the_service(client: Client) -> None:
    """Reflection yields the descriptor of the wire contract, with the RPCs of the Open Inference Protocol."""
    answered = _reflect(client, reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE))

    files = map(FileDescriptorProto.FromString, answered.file_descriptor_response.file_descriptor_proto)
    services = {f"{file.package}.{service.name}": service for file in files for service in file.service}
    assert set(OIP_RPCS) <= {method.name for method in services[SERVICE].method}


@case("SVC-unknown-fields")
def test_unknown_fields_are_no_error(client: Client, subject: Subject) -> None:
    """A request with fields that the contract does not have, in the message and in an input, is served."""
    request = subject.request(request_id="newer")
    request.inputs[0].MergeFromString(UNKNOWN_FIELD)

    body = client.send(f"/{SERVICE}/ModelInfer", request.SerializeToString() + UNKNOWN_FIELD)

    response = pb.ModelInferResponse.FromString(body)
    assert response.id == "newer"
    assert tuple(answer(response)) == subject.outputs


@case("SVC-stream-order")
def test_a_stream_answers_in_order(client: Client, subject: Subject) -> None:
    """ModelStreamInfer answers each request of a stream, in the order of the requests."""
    ids = [f"number {number}" for number in range(20)]
    sizes = [1 + 7 * number % 5 for number in range(20)]

    responses = list(
        client.stream(subject.request(rows=rows, request_id=name) for name, rows in zip(ids, sizes, strict=True))
    )

    assert [response.infer_response.id for response in responses] == ids
    assert not any(response.error_message for response in responses)


@case("SVC-stream-final")
def test_the_last_response_to_a_request_of_a_stream_says_so(client: Client, subject: Subject) -> None:
    """The last response to a request of a stream carries triton_final_response=true."""
    responses = list(client.stream([subject.request(request_id="one"), subject.request(request_id="two")]))

    finals = [response.infer_response.parameters["triton_final_response"].bool_param for response in responses]
    assert finals == [True, True]


@case("SVC-stream-error")
def test_a_stream_goes_on_after_a_bad_request(client: Client, subject: Subject) -> None:
    """A bad request of a stream is answered with an error message and its id, and the stream goes on."""
    bad = subject.request(request_id="bad")
    bad.inputs[0].datatype = "FP99"

    before, failed, after = client.stream(
        [subject.request(request_id="before"), bad, subject.request(request_id="after")]
    )

    assert "FP99" in failed.error_message
    assert len(failed.error_message.encode()) <= 1024
    assert failed.infer_response.id == "bad"
    assert not failed.infer_response.outputs
    assert [before.infer_response.id, after.infer_response.id] == ["before", "after"]
    assert tuple(answer(after.infer_response)) == subject.outputs


@case("SVC-stream-models")
def test_a_stream_may_name_another_model_in_each_request(client: Client, subject: Subject) -> None:
    """A request of a stream for a model that does not exist harms neither the one before nor the one after."""
    lost = subject.request(request_id="lost")
    lost.model_name = "conf-no-such-model"

    before, failed, after = client.stream(
        [subject.request(request_id="before"), lost, subject.request(request_id="after")]
    )

    assert "conf-no-such-model" in failed.error_message
    assert failed.infer_response.id == "lost"
    assert [before.infer_response.id, after.infer_response.id] == ["before", "after"]


@case("SVC-stream-interactive")
def test_a_stream_answers_before_the_client_has_ended_it(client: Client, subject: Subject) -> None:
    """An answer comes while the client keeps the stream open to decide what to ask next."""
    asked: SimpleQueue[pb.ModelInferRequest | None] = SimpleQueue()
    responses = client.stream(iter(asked.get, None))

    asked.put(subject.request(request_id="first"))
    first = next(responses)
    asked.put(subject.request(request_id=f"after {first.infer_response.id}"))
    second = next(responses)
    asked.put(None)

    assert second.infer_response.id == "after first"
    assert list(responses) == []


def _health(client: Client) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(client.channel)


def _reflect(
    client: Client, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    (answered,) = stub.ServerReflectionInfo(iter([request]), timeout=WAIT_S)
    return answered
