"""Errors of the mesh ↔ gRPC statuses. The only file that knows gRPC's codes.

A status travels as code and text, with `google.rpc.Status` in `grpc-status-details-bin` (ErrorInfo: reason, and the hop that
failed; RetryInfo: the pushback), `grpc-retry-pushback-ms` for clients that retry by gRFC A6, and `x-infermesh-hop`.
"""

from __future__ import annotations

import logging

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from infermesh import errors
from infermesh.call import Call
from infermesh.errors import ForeignStatus, Internal, MeshError
from infermesh.protocol.open_inference_pb2 import ModelStreamInferResponse

__all__ = ["FINAL_PARAMETER", "HOP", "error_in_stream", "error_of", "status_of", "stream_failure", "unforeseen"]

HOP = "x-infermesh-hop"
REJECTED = "x-infermesh-rejected"
DETAILS = "grpc-status-details-bin"
PUSHBACK = "grpc-retry-pushback-ms"
DOMAIN = "infermesh"
CODE_PARAMETER = "infermesh_code"
FINAL_PARAMETER = "triton_final_response"

_log = logging.getLogger(__name__)
_CLASSES: dict[str, type[MeshError]] = {
    kind.code: kind
    for kind in (
        errors.InvalidRequest,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.NotFound,
        errors.FailedPrecondition,
        errors.ResourceExhausted,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Unimplemented,
        errors.Internal,
    )
}

# What grpc core says when no backend took the call: nothing was started there.
_NOT_STARTED = (
    "failed to connect to all addresses",
    "connections to all backends failing",
    "dns resolution failed",
    "name resolution",
    "empty address list",
)


def status_of(error: MeshError, hop: str) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Code, text and trailing metadata of an error; `hop` is this service, named unless a lower one failed."""
    code = grpc.StatusCode[error.code]
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={"hop": error.hop or hop})
    details = Status(code=code.value[0], message=error.message)
    details.details.add().Pack(info)
    trailing: list[tuple[str, str | bytes]] = [(HOP, error.hop or hop)]
    if error.rejected:
        trailing.append((REJECTED, "1"))
    if error.retry_after_s is not None:
        retry = RetryInfo(retry_delay=Duration(nanos=0))
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.details.add().Pack(retry)
        trailing.append((PUSHBACK, str(max(1, round(error.retry_after_s * 1000)))))
    trailing.append((DETAILS, details.SerializeToString()))
    return code, error.message, tuple(trailing)


def error_of(failure: grpc.aio.AioRpcError, hop: str) -> MeshError:
    """The error that a lower hop answered; `hop` names it unless it says itself who failed."""
    trailing = dict(failure.trailing_metadata() or ())
    name = failure.code().name
    text = failure.details() or ""
    reported = trailing.get(HOP)
    reason, retry_after_s = "", None
    if (pushback := trailing.get(PUSHBACK)) is not None and str(pushback).isdecimal():
        retry_after_s = int(str(pushback)) / 1000
    if isinstance(packed := trailing.get(DETAILS), bytes):
        reason = _reason(packed)
    rejected = trailing.get(REJECTED) == "1" or (
        name == "UNAVAILABLE" and reported is None and any(words in text.lower() for words in _NOT_STARTED)
    )
    if reported is None and name in (
        "UNAVAILABLE",
        "UNKNOWN",
        "INTERNAL",
    ):  # grpc's own words: say which backend they are about
        text = f"{hop}: {text}"
    kind = _CLASSES.get(name)
    at = str(reported or hop)
    if kind is None:
        return ForeignStatus(name, text, reason=reason, hop=at, rejected=rejected, retry_after_s=retry_after_s)
    return kind(text, reason=reason, hop=at, rejected=rejected, retry_after_s=retry_after_s)


def stream_failure(error: MeshError, request_id: str) -> ModelStreamInferResponse:
    """An in-stream failure: Triton's form (text, and the id of the request), with the code beside it as a parameter."""
    failure = ModelStreamInferResponse(error_message=error.message or error.code)
    failure.infer_response.id = request_id
    failure.infer_response.parameters[CODE_PARAMETER].string_param = error.code
    failure.infer_response.parameters[FINAL_PARAMETER].bool_param = True
    return failure


def error_in_stream(failure: ModelStreamInferResponse, hop: str) -> MeshError:
    """The error of an in-stream failure; INTERNAL when the backend did not say which code it is."""
    code = failure.infer_response.parameters[CODE_PARAMETER].string_param
    return _CLASSES.get(code, Internal)(failure.error_message, hop=hop)


def unforeseen(error: Exception, call: Call | None, rpc: str) -> Internal:
    """INTERNAL for an exception that nobody foresaw: a fixed text and an id for the log, where the exception goes."""
    trace_id = call.trace.get("traceparent", "")[3:35] if call else ""
    identity = trace_id or (call.request_id if call else "")
    _log.error(
        "unforeseen error in %s", rpc, exc_info=error, extra={"request_id": call.request_id if call else "", "rpc": rpc}
    )
    return Internal(
        f"internal error; the log has it under {identity}" if identity else "internal error; the log has it"
    )


def _reason(packed: bytes) -> str:
    try:
        for detail in Status.FromString(packed).details:
            if detail.Is(ErrorInfo.DESCRIPTOR):
                info = ErrorInfo()
                detail.Unpack(info)
                return info.reason
    except Exception:  # what a backend put there must not hide its status
        return ""
    return ""
