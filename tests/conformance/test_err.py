"""ERR: models, versions, the message itself, limits, rights and what is out of a caller's hands."""

from __future__ import annotations

import re
from typing import Any

import grpc
import pytest
from conformance_cases import BACKENDS, NOT_IMPLEMENTED, Refuse, Subject, case, check_refusal, named, waited
from conformance_models import BROKEN_MODEL, LINEAR_WEIGHTS
from conformance_wire import Client, Value, bytes_raw, fp32, infer, int64, size_of
from grpc import StatusCode

from infermesh.protocol import open_inference_pb2 as pb

LIMIT_BYTES = 64 << 20

NO_SUCH_MODEL = "conf-no-such-model"

# What every hop answers about a model, and what only those answer that have a repository.
MODEL_RPCS = ("ModelInfer", "ModelReady", "ModelMetadata")
REPOSITORY_RPCS = ("ModelConfig", "ModelStatistics")
LOADING_RPCS = ("RepositoryModelLoad", "RepositoryModelUnload")

BAD_VERSIONS = ("no-such-label", "1.0", "-1", "Upper", "1 ", "v1/../2")

# No message at all, a field that ends too early, and a model name that is not UTF-8.
NO_MESSAGES = (b"\xff" * 16, b"\x0a\x7fcut off", b"\x0a\x02\xff\xfe")


def about(rpc: str, name: str, version: str = "") -> Any:
    """A request of `rpc` about a model."""
    if rpc == "ModelInfer":
        return pb.ModelInferRequest(model_name=name, model_version=version)
    return getattr(pb, f"{rpc}Request")(name=name, version=version)


@case("ERR-unknown-model", each={"rpc": MODEL_RPCS})
def test_an_unknown_model_is_not_found(client: Client, refuse: Refuse, rpc: str) -> None:
    """A model that does not exist is NOT_FOUND, in every RPC that names one."""
    for name in sorted({NO_SUCH_MODEL, named(client, NO_SUCH_MODEL)}):
        refuse(about(rpc, name), StatusCode.NOT_FOUND, NO_SUCH_MODEL, rpc=rpc)


@case("ERR-unknown-model-repository", each={"rpc": REPOSITORY_RPCS})
def test_an_unknown_model_has_no_configuration(client: Client, refuse: Refuse, rpc: str) -> None:
    """Configuration and statistics of a model that does not exist are NOT_FOUND."""
    for name in sorted({NO_SUCH_MODEL, named(client, NO_SUCH_MODEL)}):
        refuse(about(rpc, name), StatusCode.NOT_FOUND, NO_SUCH_MODEL, rpc=rpc)


@case("ERR-unknown-version", each={"rpc": MODEL_RPCS})
def test_an_unknown_version_is_not_found(subject: Subject, refuse: Refuse, rpc: str) -> None:
    """A version that does not exist is NOT_FOUND, in every RPC that names one."""
    refuse(about(rpc, subject.model, "99"), StatusCode.NOT_FOUND, subject.backend, "99", rpc=rpc)


@case("ERR-unknown-version-repository", each={"rpc": REPOSITORY_RPCS})
def test_an_unknown_version_has_no_configuration(subject: Subject, refuse: Refuse, rpc: str) -> None:
    """Configuration and statistics of a version that does not exist are NOT_FOUND."""
    refuse(about(rpc, subject.model, "99"), StatusCode.NOT_FOUND, subject.backend, "99", rpc=rpc)


@case("ERR-version-text", each={"version": BAD_VERSIONS})
def test_a_version_that_is_no_version_is_refused(subject: Subject, refuse: Refuse, version: str) -> None:
    """A version that is neither a number nor a label of the model is refused, in every RPC that names one."""
    for rpc in MODEL_RPCS:
        refuse(
            about(rpc, subject.model, version), StatusCode.INVALID_ARGUMENT, subject.backend, version.strip(), rpc=rpc
        )


@case("ERR-not-ready")
def test_a_model_that_is_not_ready_is_unavailable(client: Client, refuse: Refuse) -> None:
    """Infer on a model that is known and could not be loaded is UNAVAILABLE, while ModelReady answers false."""
    model = named(client, BROKEN_MODEL)
    refuse(infer(model, fp32("x", [1.0])), StatusCode.UNAVAILABLE, BROKEN_MODEL)

    assert not client.call("ModelReady", pb.ModelReadyRequest(name=model)).ready


@case("ERR-empty-model", each={"rpc": MODEL_RPCS})
def test_an_empty_model_name_is_refused(refuse: Refuse, rpc: str) -> None:
    """An empty model name is INVALID_ARGUMENT, not a model that was not found."""
    refuse(about(rpc, ""), StatusCode.INVALID_ARGUMENT, "model", rpc=rpc)


@case("ERR-order")
def test_model_and_version_are_checked_before_the_message(subject: Subject, refuse: Refuse) -> None:
    """Of several faults the first counts: the model, then the version, then the message."""
    broken = subject.request()
    broken.inputs[0].datatype = "FP99"

    for model, version, code, word in (
        (NO_SUCH_MODEL, "no-such-label", StatusCode.NOT_FOUND, NO_SUCH_MODEL),
        (subject.model, "no-such-label", StatusCode.INVALID_ARGUMENT, "no-such-label"),
        (subject.model, "99", StatusCode.NOT_FOUND, "99"),
    ):
        broken.model_name, broken.model_version = model, version
        refuse(broken, code, word)


@case("ERR-not-protobuf", each={"rpc": MODEL_RPCS})
def test_bytes_that_are_no_message_are_refused(refuse: Refuse, rpc: str) -> None:
    """Bytes that are no protobuf message are INVALID_ARGUMENT, in every RPC."""
    for body in NO_MESSAGES:
        refuse(body, StatusCode.INVALID_ARGUMENT, rpc=rpc)


@case("ERR-too-large")
def test_a_message_over_the_limit_is_refused(subject: Subject, refuse: Refuse) -> None:
    """A message over 64 MiB is RESOURCE_EXHAUSTED, and the connection goes on."""
    request = subject.request(parameters={"filling": pb.InferParameter(string_param="x" * (LIMIT_BYTES + 1))})

    refuse(request, StatusCode.RESOURCE_EXHAUSTED)


@case("ERR-text")
def test_what_a_caller_sent_is_quoted_shortened_and_escaped(subject: Subject, refuse: Refuse) -> None:
    """A status text stays within 1 KiB and printable, however long and odd the name is that it quotes."""
    odd = "\n\0\r\x1b[31m\u202e" + "long" * 25_000

    refuse(about("ModelInfer", odd), StatusCode.NOT_FOUND)
    request = subject.request()
    request.inputs[0].name = odd
    refuse(request, StatusCode.INVALID_ARGUMENT, subject.backend)
    refuse(subject.request(outputs=[odd]), StatusCode.INVALID_ARGUMENT, subject.backend)
    refuse(subject.request(version=odd), StatusCode.INVALID_ARGUMENT, subject.backend)


@case("ERR-overload", hops=BACKENDS)
def test_a_full_queue_is_refused_at_once(client: Client, refuse: Refuse) -> None:
    """Calls past a queue of at most 64 are RESOURCE_EXHAUSTED with pushback, and every other one is answered."""
    outcomes = waited([client.start("ModelInfer", infer("conf-queue", int64("n", [20]))) for _ in range(256)])

    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.RpcError)]
    assert refused, "nothing was refused"
    assert len(refused) < len(outcomes), "nothing was served"
    for error in refused:
        check_refusal(error, StatusCode.RESOURCE_EXHAUSTED, "conf-queue")
        _check_pushback(error)
    refuse(about("ModelInfer", NO_SUCH_MODEL), StatusCode.NOT_FOUND)


@case("ERR-rate-limit", hops=("gateway",), needs="limited_key")
def test_a_caller_past_its_rate_is_refused(client: Client, subject: Subject) -> None:
    """A caller past its rate is RESOURCE_EXHAUSTED with pushback, while another caller is served."""
    key = client.target.limited_key
    outcomes = waited([client.start("ModelInfer", subject.request(), key=key) for _ in range(500)])

    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.RpcError)]
    assert refused, "nothing was refused"
    for error in refused:
        check_refusal(error, StatusCode.RESOURCE_EXHAUSTED)
        _check_pushback(error)
    assert client.infer(subject.request(request_id="another caller")).id == "another caller"


@case("ERR-credentials", hops=("gateway",), needs="key", each={"key": ("", "no-such-key")})
def test_no_or_bad_credentials_are_refused(client: Client, subject: Subject, refuse: Refuse, key: str) -> None:
    """A call or stream without a key, or with a bad one, is UNAUTHENTICATED in every RPC but ServerLive, and tells no key."""
    asked = {rpc: about(rpc, subject.model) for rpc in MODEL_RPCS + REPOSITORY_RPCS}
    for rpc in LOADING_RPCS:
        asked[rpc] = getattr(pb, f"{rpc}Request")(model_name=subject.model)
    for rpc in ("ServerMetadata", "ServerReady", "RepositoryIndex", *NOT_IMPLEMENTED):
        asked[rpc] = getattr(pb, f"{rpc}Request")()

    for rpc, message in asked.items():
        refused = refuse(message, StatusCode.UNAUTHENTICATED, rpc=rpc, key=key)
        assert "no-such-key" not in refused.details()
    with pytest.raises(grpc.RpcError) as closed:
        list(client.stream([subject.request(request_id="1")], key=key))
    check_refusal(closed.value, StatusCode.UNAUTHENTICATED)
    assert "no-such-key" not in closed.value.details()
    assert client.call("ModelReady", pb.ModelReadyRequest(name=subject.model)).ready, "it was unloaded"


@case("ERR-permission", hops=("gateway",), needs="restricted_key")
def test_a_model_that_a_caller_may_not_use_is_refused(client: Client, subject: Subject, refuse: Refuse) -> None:
    """A caller who may not use a model gets PERMISSION_DENIED whether it exists or not, and is served elsewhere."""
    key = client.target.restricted_key
    for model in (subject.model, NO_SUCH_MODEL):
        for rpc in MODEL_RPCS:
            refuse(about(rpc, model), StatusCode.PERMISSION_DENIED, rpc=rpc, key=key)

    permitted = infer("conf-linear", fp32("x", [LINEAR_WEIGHTS]))
    assert client.call("ModelInfer", permitted, key=key).model_name == "conf-linear"


@case("ERR-permission-admin", hops=("gateway",), needs="restricted_key")
def test_load_and_unload_need_the_admin_right(client: Client, refuse: Refuse) -> None:
    """A caller without the admin right can neither load nor unload a model, not even one that it may use."""
    key = client.target.restricted_key
    for rpc in LOADING_RPCS:
        message = getattr(pb, f"{rpc}Request")(model_name="conf-linear")
        refuse(message, StatusCode.PERMISSION_DENIED, rpc=rpc, key=key)


@case("ERR-deadline")
def test_a_call_past_its_deadline_ends(client: Client, subject: Subject) -> None:
    """A call that takes too long is DEADLINE_EXCEEDED or, where that is foreseen, refused; a good one right after is served."""
    with pytest.raises(grpc.RpcError) as late:
        client.infer(subject.long_request(), timeout=0.002)

    assert late.value.code() in (StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED)
    assert client.infer(subject.request(request_id="after")).id == "after"


@case("ERR-away", hops=("transformer", "gateway"), needs="away_model")
def test_a_backend_that_is_away_is_unavailable(client: Client, refuse: Refuse) -> None:
    """A model whose backend is away is UNAVAILABLE while the others are served, and once a breaker is open too."""
    for _ in range(30):
        refuse(infer(client.target.away_model, fp32("x", [1.0])), StatusCode.UNAVAILABLE, client.target.away_model)


@case("ERR-feature", hops=("transformer", "gateway"), needs="featured_model")
def test_a_missing_feature_is_a_failed_precondition(client: Client, refuse: Refuse) -> None:
    """An entity that the feature store does not know is FAILED_PRECONDITION, where the policy says fail."""
    model = client.target.featured_model
    told = client.call("ModelMetadata", pb.ModelMetadataRequest(name=model))

    refuse(infer(model, *map(_of_nobody, told.inputs)), StatusCode.FAILED_PRECONDITION, model)


@case("ERR-unexpected")
def test_what_nobody_expected_is_internal_and_opaque(client: Client, refuse: Refuse) -> None:
    """A model that fails at run time is INTERNAL, with a trace id to look it up by and nothing of its insides."""
    error = refuse(infer(named(client, "conf-fail"), int64("index", [99])), StatusCode.INTERNAL)

    text = error.details()
    assert re.search(r"\b[0-9a-f]{32}\b", text), text
    assert not re.search(r"onnx|GatherElements|bounds|/", text, re.IGNORECASE), text


def _of_nobody(told: pb.ModelMetadataResponse.TensorMetadata) -> Value:
    """One row of the input, naming an entity that no store knows."""
    shape = tuple(1 if size == -1 else size for size in told.shape)
    elements = 1
    for size in shape:
        elements *= size
    if told.datatype == "BYTES":
        return Value(told.name, told.datatype, shape, bytes_raw([b"nobody at all"] * elements))
    return Value(told.name, told.datatype, shape, b"\x7f" * (elements * size_of(told.datatype)))


def _check_pushback(error: grpc.RpcError) -> None:
    pushback = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")
    assert pushback is not None, error.trailing_metadata()
    assert int(pushback) >= 0
