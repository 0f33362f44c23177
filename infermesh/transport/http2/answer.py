"""What the end of a call says, in gRPC's terms."""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

import grpc

from infermesh.transport.http2.frames import Errors

__all__ = ["NotTaken", "failure", "of_reset", "status_of_headers"]

_CODES = {str(code.value[0]).encode(): code for code in grpc.StatusCode}
_OF_HTTP = {  # statuses of what is no gRPC server, as grpc/grpc's http-grpc-status-mapping.md has them
    b"400": grpc.StatusCode.INTERNAL,
    b"401": grpc.StatusCode.UNAUTHENTICATED,
    b"403": grpc.StatusCode.PERMISSION_DENIED,
    b"404": grpc.StatusCode.UNIMPLEMENTED,
    b"429": grpc.StatusCode.UNAVAILABLE,
    b"502": grpc.StatusCode.UNAVAILABLE,
    b"503": grpc.StatusCode.UNAVAILABLE,
    b"504": grpc.StatusCode.UNAVAILABLE,
}
_OF_RESETS = {
    Errors.CANCEL: grpc.StatusCode.CANCELLED,
    Errors.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Errors.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}
_NOT_METADATA = frozenset(
    {b":status", b"grpc-status", b"grpc-message", b"content-type", b"grpc-encoding", b"grpc-accept-encoding"}
)


class NotTaken(Exception):
    """No server has seen the call, or one said that it did nothing for it: it may be made anew at once (gRFC A6)."""


def failure(
    code: grpc.StatusCode, text: str, trailing: tuple[tuple[str, str | bytes], ...] = ()
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=text)


def status_of_headers(headers: Mapping[bytes, bytes], http_status: bytes) -> grpc.aio.AioRpcError:
    """The failure that a call ended with; one that has no gRPC status is judged by HTTP's."""
    told = headers.get(b"grpc-status")
    if told is None:
        code = _OF_HTTP.get(http_status, grpc.StatusCode.UNKNOWN)
        return failure(code, f"the answer has no grpc-status, and HTTP status {http_status.decode('latin-1')}")
    text = unquote_to_bytes(headers.get(b"grpc-message", b"")).decode("utf-8", "replace")
    return failure(_CODES.get(told, grpc.StatusCode.UNKNOWN), text, tuple(_metadata(headers)))


def of_reset(code: int) -> grpc.aio.AioRpcError:
    """What a stream that the server has reset means (PROTOCOL-HTTP2.md, "Errors")."""
    name = Errors(code).name if code in Errors._value2member_map_ else str(code)
    return failure(_OF_RESETS.get(code, grpc.StatusCode.INTERNAL), f"the server has reset the call: {name}")  # type: ignore[call-overload]


def _metadata(headers: Mapping[bytes, bytes]) -> list[tuple[str, str | bytes]]:
    found: list[tuple[str, str | bytes]] = []
    for key, value in headers.items():
        if key in _NOT_METADATA:
            continue
        name = key.decode("latin-1")
        if not name.endswith("-bin"):
            found.append((name, value.decode("utf-8", "replace")))
            continue
        for each in value.split(b","):
            try:
                found.append((name, a2b_base64(each.rstrip(b"=") + b"=" * (-len(each.rstrip(b"=")) % 4))))
            except Base64Error:  # what a backend puts there must not hide its status
                continue
    return found
