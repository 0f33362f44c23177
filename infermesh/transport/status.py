"""Errors of the mesh ↔ gRPC statuses. The only file that knows gRPC's codes.

A status travels as code and text, with `google.rpc.Status` in `grpc-status-details-bin` (ErrorInfo: reason, and the hop that
failed; RetryInfo: the pushback; QuotaFailure: the limit), `grpc-retry-pushback-ms` for clients that retry by gRFC A6,
`x-ratelimit-limit`, `-remaining` and `-reset` (whole seconds, as in HTTP's convention), and `x-infermesh-hop`.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

from infermesh import errors
from infermesh.call import Call
from infermesh.errors import ForeignStatus, Internal, MeshError, Quota, ResourceExhausted, quoted
from infermesh.protocol.open_inference_pb2 import ModelStreamInferResponse
from infermesh.transport.metadata import is_plain

__all__ = [
    "FINAL_PARAMETER",
    "HOP",
    "answer_of",
    "error_in_stream",
    "error_of",
    "status_of",
    "stream_failure",
    "was_not_sent",
]

HOP = "x-infermesh-hop"
REJECTED = "x-infermesh-rejected"
DETAILS = "grpc-status-details-bin"
PUSHBACK = "grpc-retry-pushback-ms"
LIMIT = "x-ratelimit-limit"
REMAINING = "x-ratelimit-remaining"
RESET = "x-ratelimit-reset"
DOMAIN = "infermesh"
CODE_PARAMETER = "infermesh_code"
REASON_PARAMETER = "infermesh_reason"
HOP_PARAMETER = "infermesh_hop"
REJECTED_PARAMETER = "infermesh_rejected"
PUSHBACK_PARAMETER = "infermesh_retry_pushback_ms"
FINAL_PARAMETER = "triton_final_response"

MAX_PUSHBACK_DIGITS = 9  # of milliseconds: eleven days
NEVER = -1  # as a pushback: do not come back with this call (gRFC A6)
MAX_DIGITS = 15
MAX_WORD = 128  # characters of a reason or hop that a backend sent: what it makes up must not overflow our metadata

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

_NAMES = frozenset(code.name for code in grpc.StatusCode) - {"OK"}

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
    at = _hop(error.hop, hop)
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={"hop": at})
    details = Status(code=code.value[0], message=error.message)
    details.details.add().Pack(info)
    trailing: list[tuple[str, str | bytes]] = [(HOP, at)]
    if error.rejected:
        trailing.append((REJECTED, "1"))
    if error.retry_after_s is not None:
        milliseconds = _milliseconds(error.retry_after_s)
        if milliseconds != NEVER:
            retry = RetryInfo(retry_delay=Duration(nanos=0))
            retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
            details.details.add().Pack(retry)
        trailing.append((PUSHBACK, str(milliseconds)))
    if (quota := error.quota) is not None:
        violation = QuotaFailure.Violation(subject=quota.subject, description=error.message)
        details.details.add().Pack(QuotaFailure(violations=[violation]))
        trailing += [
            (LIMIT, str(quota.limit)),
            (REMAINING, str(quota.remaining)),
            (RESET, str(math.ceil(quota.reset_s))),
        ]
    trailing.append((DETAILS, details.SerializeToString()))
    return code, error.message, tuple(trailing)


def error_of(failure: grpc.aio.AioRpcError, hop: str, model: str = "") -> MeshError:
    """The error that a lower hop answered; `hop` names it unless it says itself who failed. `model` is what it was asked for."""
    trailing = dict(failure.trailing_metadata() or ())
    name = failure.code().name
    text = failure.details() or ""
    reported = trailing.get(HOP)
    reason = ""
    retry_after_s = _pushback(trailing[PUSHBACK]) if PUSHBACK in trailing else None
    if isinstance(packed := trailing.get(DETAILS), bytes):
        reason = _reason(packed)[:MAX_WORD]
    rejected = trailing.get(REJECTED) == "1" or was_not_sent(failure)
    if reported is None and name == "CANCELLED":
        # Not by us, else no status would come: grpc core answers so what reaches a server as it shuts down (grpc/grpc#41785).
        name, text = "UNAVAILABLE", "the backend ended the call"
    if reported is None and name in ("UNAVAILABLE", "UNKNOWN", "INTERNAL"):
        about = f"model {quoted(model)}: " if model else ""
        text = f"{about}{hop}: {text}"  # grpc's own words: say what they are about
    at = _hop(str(reported or ""), hop)
    error = _error(name, text, reason=reason, hop=at, rejected=rejected, retry_after_s=retry_after_s)
    if LIMIT in trailing and isinstance(error, ResourceExhausted):
        error.quota = _quota(trailing)
    return error


def was_not_sent(failure: grpc.aio.AioRpcError) -> bool:
    """Whether grpc found no connection for the call, so that no server has seen it."""
    if failure.code() is not grpc.StatusCode.UNAVAILABLE or HOP in dict(failure.trailing_metadata() or ()):
        return False
    text = (failure.details() or "").lower()
    return any(words in text for words in _NOT_STARTED)


def stream_failure(error: MeshError, request_id: str, hop: str) -> ModelStreamInferResponse:
    """An in-stream failure: Triton's form (text, and the id of the request), with what a status carries as parameters."""
    failure = ModelStreamInferResponse(error_message=error.message or error.code)
    failure.infer_response.id = request_id
    parameters = failure.infer_response.parameters
    parameters[CODE_PARAMETER].string_param = error.code
    parameters[REASON_PARAMETER].string_param = error.reason
    parameters[HOP_PARAMETER].string_param = error.hop or hop
    if error.rejected:
        parameters[REJECTED_PARAMETER].bool_param = True
    if error.retry_after_s is not None:
        parameters[PUSHBACK_PARAMETER].int64_param = _milliseconds(error.retry_after_s)
    parameters[FINAL_PARAMETER].bool_param = True
    return failure


def error_in_stream(failure: ModelStreamInferResponse, hop: str) -> MeshError:
    """The error of an in-stream failure; INTERNAL when the backend did not say which code it is."""
    parameters = failure.infer_response.parameters
    told = parameters[PUSHBACK_PARAMETER].int64_param if PUSHBACK_PARAMETER in parameters else None
    code = parameters[CODE_PARAMETER].string_param
    return _error(
        code if code in _NAMES else "INTERNAL",
        failure.error_message,
        reason=parameters[REASON_PARAMETER].string_param[:MAX_WORD],
        hop=_hop(parameters[HOP_PARAMETER].string_param, hop),
        rejected=parameters[REJECTED_PARAMETER].bool_param,
        retry_after_s=None if told is None else _pushback(str(told)),
    )


def answer_of(error: Exception, call: Call, rpc: str) -> MeshError:
    """What a caller is told of an exception: a foreseen error as it is, anything else as INTERNAL with a fixed text and an id.

    The id is the call's trace id, or one made here; the log has the exception under it.
    """
    if isinstance(error, MeshError) and (error.hop or error.code != Internal.code):
        return error
    trace_id = call.trace.get("traceparent", "")[3:35] or secrets.token_hex(16)
    fields = {"trace_id": trace_id, "request_id": call.request_id, "rpc": rpc}
    _log.error("internal error in %s: %s", rpc, error, exc_info=error, extra=fields)
    reason = error.reason if isinstance(error, MeshError) else ""
    return Internal(f"internal error; the log has it under trace id {trace_id}", reason=reason)


def _error(code: str, text: str, *, reason: str, hop: str, rejected: bool, retry_after_s: float | None) -> MeshError:
    kind = _CLASSES.get(code)
    if kind is None:
        return ForeignStatus(code, text, reason=reason, hop=hop, rejected=rejected, retry_after_s=retry_after_s)
    return kind(text, reason=reason, hop=hop, rejected=rejected, retry_after_s=retry_after_s)


def _hop(reported: str, otherwise: str) -> str:
    """What a lower hop calls itself, if metadata can carry it on: gRPC would refuse to send the status, code and all."""
    return reported[:MAX_WORD] if reported and is_plain(reported) else otherwise


def _milliseconds(seconds: float) -> int:
    """Rounded up: whoever comes sooner is refused again; never 0, which would say "at once". NEVER for what is too long."""
    if seconds * 1000 >= 10**MAX_PUSHBACK_DIGITS:
        return NEVER
    return max(1, math.ceil(round(seconds * 1000, 6)))


def _pushback(told: str | bytes) -> float:
    """When to come back, in seconds; infinite, so never, for what is negative, no number, or beyond all reason (gRFC A6)."""
    is_number = isinstance(told, str) and told.isascii() and told.isdecimal() and len(told) <= MAX_PUSHBACK_DIGITS
    return int(told) / 1000 if is_number else math.inf


def _quota(trailing: Mapping[str, str | bytes]) -> Quota | None:
    """The limit that a lower hop told of; None for what is none."""
    numbers = [str(trailing.get(key, "")) for key in (LIMIT, REMAINING, RESET)]
    if not all(number.isdecimal() and len(number) <= MAX_DIGITS for number in numbers):
        return None
    subject = ""
    if isinstance(packed := trailing.get(DETAILS), bytes):
        failure = _detail(packed, QuotaFailure)
        subject = str(failure.violations[0].subject)[:MAX_WORD] if failure and failure.violations else ""
    limit, remaining, reset_s = map(int, numbers)
    return Quota(subject, limit, remaining, reset_s)


def _reason(packed: bytes) -> str:
    info = _detail(packed, ErrorInfo)
    return str(info.reason) if info is not None else ""


def _detail(packed: bytes, kind: type[Any]) -> Any:
    """The first detail of this kind; None when there is none."""
    try:
        for detail in Status.FromString(packed).details:
            if detail.Is(kind.DESCRIPTOR):
                found = kind()
                detail.Unpack(found)
                return found
    except Exception:  # what a backend put there must not hide its status
        return None
    return None
