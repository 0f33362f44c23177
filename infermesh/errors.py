"""The errors of the mesh.

    MeshError
    ├── InvalidRequest        INVALID_ARGUMENT      the caller's message is wrong; the same call will fail again
    ├── Unauthenticated       UNAUTHENTICATED       no credentials, or bad ones
    ├── PermissionDenied      PERMISSION_DENIED     the caller may not do this
    ├── NotFound              NOT_FOUND             no such model or version
    ├── FailedPrecondition    FAILED_PRECONDITION   a feature is missing or stale where the policy says fail
    ├── ResourceExhausted     RESOURCE_EXHAUSTED    over a limit; `retry_after_s` says when to come back
    ├── Unavailable           UNAVAILABLE           a backend or model is away; another try may succeed
    ├── DeadlineExceeded      DEADLINE_EXCEEDED     the time that the caller gave is over
    ├── Unimplemented         UNIMPLEMENTED         this service does not do that
    ├── Internal              INTERNAL              our mistake; the text says nothing of what is inside
    └── ForeignStatus         any other             a code of a lower hop that has no class here, passed on

Codes are the names of `google.rpc.Code`; only `transport/status.py` knows what they are in gRPC.
"""

from __future__ import annotations

import json
import re
from typing import ClassVar, NamedTuple

__all__ = [
    "DeadlineExceeded",
    "FailedPrecondition",
    "ForeignStatus",
    "Internal",
    "InvalidRequest",
    "MeshError",
    "NotFound",
    "PermissionDenied",
    "Quota",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "quoted",
]

MAX_MESSAGE_BYTES = 1024  # a longer status text overflows the client's metadata limit and arrives as RESOURCE_EXHAUSTED

_API_KEY = re.compile(r"imk_[\w-]+")  # by which the gateway's keys begin


class Quota(NamedTuple):
    """The limit that a refused call is past (`google.rpc.QuotaFailure`, and `x-ratelimit-*` in the metadata)."""

    subject: str
    """What has the limit: `rule:tenant`."""
    limit: int
    """Units at once, after a pause."""
    remaining: int
    """Units that would be let in now."""
    reset_s: float
    """Seconds until `limit` of them would be."""


class MeshError(Exception):
    """What a service answers instead of a response.

    `message` says what was wrong, where, and what would be right; it is cut at 1 KiB. `reason` is a stable word for programs
    (`google.rpc.ErrorInfo.reason`). `rejected` is true when no work was started, so that asking another replica is safe.
    `hop` names the service that failed; empty: this one. `retry_after_s` is the pushback in seconds, None: none, infinite: never
    again. `quota` is the limit that a ResourceExhausted is about, where it is about one. `endpoint` is the address that was asked
    from here, for whoever tries again elsewhere, and `elsewhere` whether there is another one that is ready and was not tried;
    `variant` is the one that was picked, for whoever counts. These three do not travel.
    """

    code: ClassVar[str] = "INTERNAL"
    default_reason: ClassVar[str] = "INTERNAL"
    quota: Quota | None = None
    endpoint: str = ""
    elsewhere: bool = False
    variant: str = ""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        rejected: bool = False,
        hop: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        message = _clipped(message, MAX_MESSAGE_BYTES)
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.rejected = rejected
        self.hop = hop
        self.retry_after_s = retry_after_s


class InvalidRequest(MeshError):
    code = "INVALID_ARGUMENT"
    default_reason = "INVALID_REQUEST"


class Unauthenticated(MeshError):
    code = "UNAUTHENTICATED"
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(MeshError):
    code = "PERMISSION_DENIED"
    default_reason = "PERMISSION_DENIED"


class NotFound(MeshError):
    code = "NOT_FOUND"
    default_reason = "MODEL_NOT_FOUND"


class FailedPrecondition(MeshError):
    code = "FAILED_PRECONDITION"
    default_reason = "FAILED_PRECONDITION"


class ResourceExhausted(MeshError):
    code = "RESOURCE_EXHAUSTED"
    default_reason = "OVERLOADED"

    def limited_by(self, quota: Quota) -> ResourceExhausted:
        """The same error, about this limit."""
        self.quota = quota
        return self


class Unavailable(MeshError):
    code = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"


class DeadlineExceeded(MeshError):
    code = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_EXCEEDED"


class Unimplemented(MeshError):
    code = "UNIMPLEMENTED"
    default_reason = "UNIMPLEMENTED"


class Internal(MeshError):
    pass


class ForeignStatus(MeshError):
    """A status of a lower hop whose code has no class here (ABORTED, DATA_LOSS, …); it is passed on unchanged."""

    def __init__(self, code: str, message: str, **details: object) -> None:
        super().__init__(message, **details)  # type: ignore[arg-type]  # the details of MeshError, passed through
        self.code = code  # type: ignore[misc]  # the one class whose code is not fixed
        self.reason = str(details.get("reason") or code)


def quoted(text: str | bytes, limit: int = 64) -> str:
    """What a caller sent, in double quotes, escaped and cut to `limit` characters: safe in a log line and in a status text.

    An API key that was sent as something else, the name of a model say, is masked.
    """
    if isinstance(text, bytes):
        text = text[: limit + 1].decode("utf-8", "backslashreplace")
    if "imk_" in text:
        text = _API_KEY.sub("imk_…", text)
    return json.dumps(text if len(text) <= limit else text[:limit] + "…", ensure_ascii=True)


def _clipped(text: str, limit_bytes: int) -> str:
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit_bytes:
        return data.decode()  # not `text`: a lone surrogate, of a file's name say, can't be sent
    return data[: limit_bytes - 3].decode("utf-8", "ignore") + "…"
