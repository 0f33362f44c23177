"""One method of a service, as its handler describes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from infermesh.transport.asgi.wire import WireError

__all__ = ["Method", "method_of"]


def _unchanged(data: Any) -> Any:
    return data


@dataclass(frozen=True, slots=True)
class Method:
    """How to call it, and its messages from and to bytes."""

    path: str
    behaviour: Callable[[Any, Any], Any]
    parse: Callable[[bytes], Any]
    serialise: Callable[[Any], bytes]
    request_streaming: bool
    response_streaming: bool

    def parsed(self, data: bytes) -> Any:
        """The request of these bytes. Raises WireError."""
        try:
            return self.parse(data)
        except Exception:
            text = "the bytes of the request are no message of its type"
            raise WireError(grpc.StatusCode.INTERNAL, text) from None


def method_of(path: str, handler: Any) -> Method:
    """What a `grpc.RpcMethodHandler` describes; the behaviour is the one of its kind."""
    kind = "_".join("stream" if each else "unary" for each in (handler.request_streaming, handler.response_streaming))
    return Method(
        path,
        getattr(handler, kind),
        handler.request_deserializer or _unchanged,
        handler.response_serializer or _unchanged,
        handler.request_streaming,
        handler.response_streaming,
    )
