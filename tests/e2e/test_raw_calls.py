"""Calls over plain HTTP/2, as grpcurl makes them: reflection, a call, a stream, a refusal; no gRPC library is the caller."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e_door import KEY, check_golden, golden, request_of
from e2e_plain_http2 import PlainCaller
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from infermesh.cli.processes import SERVICES, Mesh
from infermesh.protocol import open_inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
CREDENTIALS = [("x-api-key", KEY)]
NOT_FOUND, UNIMPLEMENTED, UNAUTHENTICATED = "5", "12", "16"


@pytest.fixture
def caller(mesh: Mesh) -> Iterator[PlainCaller]:
    with PlainCaller(mesh.address("gateway")) as caller:
        yield caller


@pytest.mark.parametrize("service", SERVICES)
def test_the_services_are_described(mesh: Mesh, service: str) -> None:
    """What grpcurl asks first: the names of the services and the file that declares one; two questions in one stream."""
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services="*"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]

    with PlainCaller(mesh.address(service)) as caller:
        answered = caller.call(REFLECTION, *(each.SerializeToString() for each in questions))

    listed, described = map(reflection_pb2.ServerReflectionResponse.FromString, answered.messages)
    assert SERVICE in {each.name for each in listed.list_services_response.service}
    files = map(FileDescriptorProto.FromString, described.file_descriptor_response.file_descriptor_proto)
    assert any(file.package == "inference" for file in files)
    assert answered.status == "0"


@pytest.mark.parametrize("piece", [1, 7, 16_384])
def test_a_call_is_answered(caller: PlainCaller, piece: int) -> None:
    """However the message is cut into frames; headers, one message and trailers come, each with what gRPC says of it."""
    case = golden("iris")[-1]
    request = request_of("iris", case["inputs"], case["version"])
    request.id = "plain"

    answered = caller.call(
        f"/{SERVICE}/ModelInfer",
        request.SerializeToString(),
        metadata=[*CREDENTIALS, ("grpc-timeout", "20S")],
        piece=piece,
    )

    assert answered.headers[":status"] == "200"
    assert answered.headers["content-type"] == "application/grpc"
    assert answered.trailers["grpc-status"] == "0"
    (message,) = answered.messages
    response = pb.ModelInferResponse.FromString(message)
    assert response.id == "plain"
    check_golden(response, case)


def test_many_calls_share_a_connection(caller: PlainCaller) -> None:
    """One after the other, answered and refused ones by turns."""
    request = request_of("iris", golden("iris")[-1]["inputs"])
    for turn in range(20):
        request.model_name = "no-such-model" if turn % 2 else "iris"

        answered = caller.call(f"/{SERVICE}/ModelInfer", request.SerializeToString(), metadata=CREDENTIALS)

        assert answered.status == (NOT_FOUND if turn % 2 else "0")


def test_a_stream_is_answered(caller: PlainCaller) -> None:
    """Three requests of a stream and three answers in their order."""
    request = request_of("iris", golden("iris")[-1]["inputs"])
    asked = []
    for name in ("a", "b", "c"):
        request.id = name
        asked.append(request.SerializeToString())

    answered = caller.call(f"/{SERVICE}/ModelStreamInfer", *asked, metadata=CREDENTIALS)

    responses = map(pb.ModelStreamInferResponse.FromString, answered.messages)
    assert [each.infer_response.id for each in responses] == ["a", "b", "c"]
    assert answered.status == "0"


@pytest.mark.parametrize(
    ("method", "metadata", "status"),
    [
        ("ModelInfer", CREDENTIALS, NOT_FOUND),
        ("ModelInfer", [], UNAUTHENTICATED),
        ("ModelDream", CREDENTIALS, UNIMPLEMENTED),
    ],
)
def test_a_refused_call_has_its_status(
    caller: PlainCaller, method: str, metadata: list[tuple[str, str]], status: str
) -> None:
    """HTTP says 200, gRPC says why, no message comes, and the connection serves the next call."""
    request = pb.ModelInferRequest(model_name="no-such-model")

    answered = caller.call(f"/{SERVICE}/{method}", request.SerializeToString(), metadata=metadata)

    assert answered.headers[":status"] == "200"
    assert answered.status == status
    assert answered.messages == []
    live = caller.call(f"/{SERVICE}/ServerLive", b"")
    assert pb.ServerLiveResponse.FromString(live.messages[0]).live


def test_an_answer_is_compressed_for_those_alone_who_ask(caller: PlainCaller) -> None:
    """A caller who says nothing of grpc-accept-encoding gets plain messages."""
    answered = caller.call(
        f"/{SERVICE}/ModelMetadata", pb.ModelMetadataRequest(name="iris").SerializeToString(), metadata=CREDENTIALS
    )

    assert answered.headers.get("grpc-encoding", "identity") == "identity"
    assert pb.ModelMetadataResponse.FromString(answered.messages[0]).name == "iris"
