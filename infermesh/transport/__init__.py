"""The mesh on the wire: gRPC server and client. With `protocol` and `runtime` the only importer of grpc."""

from typing import TYPE_CHECKING

from infermesh.lazy import lazily

if TYPE_CHECKING:
    from infermesh.transport.client import RemoteService
    from infermesh.transport.server import Server

__all__ = ["RemoteService", "Server"]

__getattr__ = lazily(__name__, {"RemoteService": "infermesh.transport.client", "Server": "infermesh.transport.server"})
