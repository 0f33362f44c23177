"""Errors of the mesh ↔ gRPC statuses, over a real channel."""

from __future__ import annotations

import logging
import math
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

from infermesh import errors
from infermesh.call import Call
from infermesh.errors import ForeignStatus, Internal, MeshError, NotFound, Quota, ResourceExhausted, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.transport.status import answer_of, error_in_stream, error_of, status_of, stream_failure

REQUEST = pb.ModelInferRequest(model_name="m", id="7")


def raising(error: BaseException) -> Any:
    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        raise error

    return answer


def failure(code: grpc.StatusCode, text: str | None, *trailing: tuple[str, Any]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), text)


@pytest.mark.parametrize(
    "text",
    ["x" * 5000, "é" * 5000, "\n\x01%" * 2000, "😀" * 2000, "\udcff" * 2000, 'model "m": input "x": expected FP32'],
    ids=["ascii", "two bytes", "escaped", "four bytes", "surrogates", "short"],
)
async def test_every_text_arrives_with_its_code(serve: Any, scripted: Any, text: str) -> None:
    """However long and whatever it holds, a text does not overflow the client's metadata and change the code."""
    running = await serve(scripted(raising(NotFound(text, reason="R"))))

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await running.stub.ModelInfer(REQUEST)

    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert error.value.details() == NotFound(text).message
    assert len(error.value.details().encode()) <= 1024


async def test_a_status_carries_details_for_any_client(serve: Any, scripted: Any) -> None:
    """google.rpc.Status holds ErrorInfo and RetryInfo, and the pushback stands in the metadata that gRPC clients read."""
    running = await serve(
        scripted(raising(ResourceExhausted("full", reason="QUEUE_FULL", rejected=True, retry_after_s=0.05)))
    )

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await running.stub.ModelInfer(REQUEST)

    trailing = dict(error.value.trailing_metadata())
    details = Status.FromString(trailing["grpc-status-details-bin"])
    info, retry = ErrorInfo(), RetryInfo()
    assert details.details[0].Unpack(info) and details.details[1].Unpack(retry)
    assert (details.code, details.message) == (8, "full")
    assert (info.reason, info.domain, dict(info.metadata)) == ("QUEUE_FULL", "infermesh", {"hop": "tested"})
    assert retry.retry_delay.ToMilliseconds() == 50
    assert (trailing["grpc-retry-pushback-ms"], trailing["x-infermesh-hop"]) == ("50", "tested")


async def test_an_exception_that_nobody_foresaw_is_told_to_the_log_alone(
    serve: Any, scripted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller reads a fixed text and an id; the log has the exception under that id."""
    running = await serve(scripted(raising(KeyError("password=hunter2"))))

    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as error:
        await running.stub.ModelInfer(REQUEST, metadata=(("x-request-id", "req-1"),))

    assert error.value.code() is grpc.StatusCode.INTERNAL
    record = next(r for r in caplog.records if r.name == "infermesh.transport.status")
    assert record.exc_info is not None and "hunter2" in str(record.exc_info[1])
    assert record.request_id == "req-1"  # type: ignore[attr-defined]
    trace_id = record.trace_id  # type: ignore[attr-defined]
    assert error.value.details() == f"internal error; the log has it under trace id {trace_id}"
    assert len(trace_id) == 32
    assert "hunter2" not in str(error.value.trailing_metadata())


def test_the_id_in_an_internal_error_is_that_of_the_callers_trace() -> None:
    """A caller's trace id is what finds the spans too; without one an id is made."""
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}

    assert answer_of(KeyError(), Call(trace=trace), "x").message.endswith("id 4bf92f3577b34da6a3ce929d0e0e4736")
    assert answer_of(KeyError(), Call(), "x").message != answer_of(KeyError(), Call(), "x").message


def test_internal_of_this_hop_is_opaque_and_that_of_a_lower_one_passes() -> None:
    """What went wrong inside is for our log; a lower hop has already said as much as it wants."""
    ours = answer_of(Internal("model file /etc/x is broken", reason="MODEL_FAILED"), Call(), "x")
    below = Internal("internal error; the log has it under trace id 1", hop="predictor")

    assert "/etc" not in ours.message and ours.reason == "MODEL_FAILED"
    assert answer_of(below, Call(), "x") is below
    assert answer_of(gone := NotFound("gone"), Call(), "x") is gone


@pytest.mark.parametrize(
    "error",
    [
        *(
            kind("text", reason="R", hop="below", rejected=True, retry_after_s=1.5)
            for kind in MeshError.__subclasses__()
            if kind is not ForeignStatus
        ),
        ForeignStatus("ABORTED", "text", reason="R", hop="below", rejected=True, retry_after_s=1.5),
        ForeignStatus("DATA_LOSS", "text"),
        NotFound("text"),
        Unavailable(""),
    ],
    ids=lambda e: e.code,
)
def test_an_error_comes_back_as_it_went(error: MeshError) -> None:
    """Code, text, reason, hop, rejection and pushback survive a status, and an in-stream failure too."""
    code, text, trailing = status_of(error, "here")
    by_status = error_of(failure(code, text, *trailing), "there")
    by_stream = error_in_stream(
        pb.ModelStreamInferResponse.FromString(stream_failure(error, "7", "here").SerializeToString()), "there"
    )

    for back in (by_status, by_stream):
        assert type(back) is type(error)
        assert (back.code, back.reason, back.rejected, back.retry_after_s) == (
            error.code,
            error.reason,
            error.rejected,
            error.retry_after_s,
        )
        assert back.hop == (error.hop or "here")
    assert by_status.message == error.message
    assert by_stream.message == error.message or error.code


def test_an_in_stream_failure_reads_as_tritons_clients_expect() -> None:
    """Text, the id of the request and the mark of the last answer stand where Triton puts them."""
    sent = stream_failure(NotFound("gone"), "7", "here")

    assert sent.error_message == "gone"
    assert sent.infer_response.id == "7"
    assert sent.infer_response.parameters["triton_final_response"].bool_param


@pytest.mark.parametrize("code", ["", "OK", "NO_SUCH_CODE", "lower"])
def test_a_failure_without_a_code_is_internal(code: str) -> None:
    """A foreign server's in-stream failure has a text alone, or a code that is none."""
    sent = pb.ModelStreamInferResponse(error_message="broken")
    if code:
        sent.infer_response.parameters["infermesh_code"].string_param = code

    error = error_in_stream(sent, "backend")

    assert (type(error), error.message, error.hop) == (Internal, "broken", "backend")


@pytest.mark.parametrize(
    "details",
    [
        b"\xff\xff\xff",
        b"",
        Status(details=[Packed(type_url="x/google.rpc.ErrorInfo", value=b"\xff")]).SerializeToString(),
    ],
)
def test_wrong_bytes_in_the_details_hide_nothing(details: bytes) -> None:
    """What a foreign server puts into the details can't hide its status."""
    error = error_of(failure(grpc.StatusCode.NOT_FOUND, "gone", ("grpc-status-details-bin", details)), "backend")

    assert (type(error), error.message, error.reason) == (NotFound, "gone", "MODEL_NOT_FOUND")


@pytest.mark.parametrize(
    ("pushback", "seconds"),
    [("250", 0.25), ("-1", math.inf), ("soon", math.inf), ("9" * 5000, math.inf), ("", math.inf), ("²", math.inf)],
)
def test_a_pushback_that_makes_no_sense_means_never(pushback: str, seconds: float) -> None:
    """Negative, no number, or one that no one would wait for: the call is not to be made again (gRFC A6)."""
    error = error_of(failure(grpc.StatusCode.UNAVAILABLE, "x", ("grpc-retry-pushback-ms", pushback)), "backend")

    assert error.retry_after_s == seconds


def test_what_a_backend_makes_up_is_bounded() -> None:
    """A reason or hop of a foreign server can't overflow the metadata of our own answer."""
    details = Status(details=[])
    details.details.add().Pack(ErrorInfo(reason="R" * 7000))
    came = failure(
        grpc.StatusCode.NOT_FOUND,
        "x",
        ("grpc-status-details-bin", details.SerializeToString()),
        ("x-infermesh-hop", "h" * 7000),
    )

    _, _, trailing = status_of(error_of(came, "backend"), "here")

    assert sum(len(value) for _, value in trailing) < 1500


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL])
def test_grpcs_own_words_name_the_backend_that_they_are_about(code: grpc.StatusCode) -> None:
    """`Socket closed` alone would leave an operator guessing."""
    assert error_of(failure(code, "Socket closed"), "backend").message == "backend: Socket closed"
    assert error_of(failure(code, "ours", ("x-infermesh-hop", "predictor")), "backend").message == "ours"


def test_a_call_that_a_leaving_server_dropped_is_unavailable() -> None:
    """CANCELLED that nobody of the mesh said is grpc core's answer to a call that meets a shutdown; it may be tried elsewhere."""
    dropped = error_of(failure(grpc.StatusCode.CANCELLED, "CANCELLED"), "backend")
    meant = error_of(failure(grpc.StatusCode.CANCELLED, "by the caller", ("x-infermesh-hop", "gateway")), "backend")

    assert (type(dropped), dropped.message) == (Unavailable, "backend: the backend ended the call")
    assert (type(meant), meant.code) == (ForeignStatus, "CANCELLED")


@pytest.mark.parametrize(
    ("code", "text", "trailing", "rejected"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; last error: …", (), True),
        ("UNAVAILABLE", "DNS resolution failed for x", (), True),
        ("UNAVAILABLE", "Socket closed", (), False),
        ("UNAVAILABLE", "failed to connect to all addresses", (("x-infermesh-hop", "transformer"),), False),
        ("INTERNAL", "failed to connect to all addresses", (), False),
        ("UNAVAILABLE", "draining", (("x-infermesh-rejected", "1"),), True),
    ],
)
def test_a_call_is_rejected_only_when_no_work_was_started(code: str, text: str, trailing: Any, rejected: bool) -> None:
    """Only what never left, and what the other side says, is safe to ask elsewhere."""
    assert error_of(failure(grpc.StatusCode[code], text, *trailing), "b").rejected is rejected


def test_a_status_without_text_is_an_error_all_the_same() -> None:
    """grpc has no details for some statuses."""
    assert error_of(failure(grpc.StatusCode.NOT_FOUND, None), "b").message == ""


async def test_a_request_over_the_limit_stays_resource_exhausted(serve: Any) -> None:
    """grpc's own refusal of a large message passes with its code, and a good call right after is served."""
    running = await serve(max_message="64KiB")
    large = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(100_000)])

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await running.stub.ModelInfer(large)
    with pytest.raises(ResourceExhausted, match="larger than max"):
        await running.remote.infer(large, Call())

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await running.remote.infer(REQUEST, Call())).id == "7"


@pytest.mark.parametrize("side", ["server", "client"])
async def test_an_answer_over_the_limit_is_resource_exhausted(serve: Any, scripted: Any, side: str) -> None:
    """An answer that may not be sent, or not be taken, is said to be too large; a good call right after is served."""

    async def answer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        size = 100_000 if request.id == "large" else 1
        return pb.ModelInferResponse(id=request.id, raw_output_contents=[bytes(size)])

    running = await serve(scripted(answer), **({"max_message": "64KiB"} if side == "server" else {}))
    options = [("grpc.max_receive_message_length", 64 * 1024)] if side == "client" else []
    async with grpc.aio.insecure_channel(running.target, options=options) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        with pytest.raises(grpc.aio.AioRpcError) as error:
            await infer(pb.ModelInferRequest(id="large").SerializeToString())

        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error.value.details()
        assert pb.ModelInferResponse.FromString(await infer(REQUEST.SerializeToString())).id == "7"


async def test_metadata_over_grpcs_limit_is_refused_and_harms_nobody(serve: Any) -> None:
    """A caller with too much metadata gets RESOURCE_EXHAUSTED, and the server goes on."""
    running = await serve()

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await running.stub.ModelInfer(REQUEST, metadata=(("baggage", "b" * 30_000),))

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await running.stub.ModelInfer(REQUEST)).id == "7"


@pytest.mark.parametrize("rpc", ["ModelInfer", "ModelMetadata", "RepositoryIndex", "ServerLive"])
async def test_bytes_that_are_no_message_are_invalid_argument(serve: Any, rpc: str) -> None:
    """Garbage is the caller's fault, by the name of the RPC and its size; not grpc's UNKNOWN or INTERNAL."""
    running = await serve()
    send = running.channel.unary_unary(f"/inference.GRPCInferenceService/{rpc}")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await send(b"\xff\xff\xff")

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == f"{rpc}: the 3 bytes of the request are no protobuf message"


def test_every_class_of_error_has_a_code_of_grpc() -> None:
    """No error of the tree can fail to be sent."""
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, MeshError) and kind is not ForeignStatus:
            assert status_of(kind("x"), "here")[0].name == kind.code


@pytest.mark.parametrize("hop", ["caf\u00e9", "a\nb", "\x00"])
async def test_a_hop_that_metadata_can_not_carry_is_replaced(serve: Any, scripted: Any, hop: str) -> None:
    """Whatever a lower hop calls itself, the code that it answered arrives."""
    running = await serve(scripted(raising(Unavailable("x", hop=hop))))

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await running.stub.ModelInfer(REQUEST, timeout=3)

    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNAVAILABLE, "x")
    assert dict(error.value.trailing_metadata())["x-infermesh-hop"] == "tested"
    assert error_of(failure(grpc.StatusCode.UNAVAILABLE, "x", ("x-infermesh-hop", hop)), "predictor").hop == "predictor"
    in_stream = stream_failure(Unavailable("x", hop=hop), "7", "tested")
    assert error_in_stream(in_stream, "predictor").hop == "predictor"


@pytest.mark.parametrize("milliseconds", [2**63 - 1, 10**9, -1, -(2**63)])
def test_a_pushback_out_of_all_bounds_in_a_stream_means_never(milliseconds: int) -> None:
    """As in metadata."""
    in_stream = stream_failure(Unavailable("x", retry_after_s=1.5), "7", "tested")
    assert error_in_stream(in_stream, "predictor").retry_after_s == 1.5

    in_stream.infer_response.parameters["infermesh_retry_pushback_ms"].int64_param = milliseconds

    assert error_in_stream(in_stream, "predictor").retry_after_s == math.inf


def test_never_is_passed_on() -> None:
    """From hop to hop, in a status and in a stream: -1, and no RetryInfo, which can't say it."""
    never = Unavailable("x", retry_after_s=math.inf)

    _, _, trailing = status_of(never, "tested")
    told = dict(trailing)
    details = Status.FromString(told["grpc-status-details-bin"])  # type: ignore[arg-type]

    assert told["grpc-retry-pushback-ms"] == "-1"
    assert not any(each.Is(RetryInfo.DESCRIPTOR) for each in details.details)
    assert error_of(failure(grpc.StatusCode.UNAVAILABLE, "x", *trailing), "backend").retry_after_s == math.inf
    assert error_in_stream(stream_failure(never, "7", "tested"), "backend").retry_after_s == math.inf


def test_a_limit_is_told_in_metadata_and_as_a_quota_failure() -> None:
    """`x-ratelimit-*` says what is left and in how many whole seconds all is; QuotaFailure names what has the limit."""
    error = ResourceExhausted("past its rate", retry_after_s=0.1004).limited_by(Quota("rule:tenant", 400, 3, 1.2))

    _, _, trailing = status_of(error, "gateway")

    told = dict(trailing)
    assert [told[f"x-ratelimit-{each}"] for each in ("limit", "remaining", "reset")] == ["400", "3", "2"]
    assert told["grpc-retry-pushback-ms"] == "101"  # who came after 100 would be refused again
    details = Status.FromString(told["grpc-status-details-bin"]).details
    quota = QuotaFailure()
    assert [each.Unpack(quota) for each in details if each.Is(QuotaFailure.DESCRIPTOR)] == [True]
    assert [(each.subject, each.description) for each in quota.violations] == [("rule:tenant", "past its rate")]


def test_a_limit_passes_a_hop() -> None:
    """A gateway before a gateway tells the limit of the one below."""
    error = ResourceExhausted("x").limited_by(Quota("rule:tenant", 400, 0, 2.0))
    code, text, trailing = status_of(error, "gateway")

    assert error_of(failure(code, text, *trailing), "there").quota == error.quota


@pytest.mark.parametrize("limit", ["-1", "many", "", "9" * 5000])
def test_a_limit_that_is_no_number_is_none(limit: str) -> None:
    """What a backend makes up is not passed on."""
    sent = ("x-ratelimit-limit", limit), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1")

    assert error_of(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "x", *sent), "there").quota is None
