"""gRPC's servicers on any ASGI server with HTTP/2 and trailers: the second engine's side of the transport."""

from infermesh.transport.asgi.application import Application
from infermesh.transport.asgi.context import Context

__all__ = ["Application", "Context"]
