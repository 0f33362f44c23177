"""The mesh on the wire: gRPC server and client. With `protocol` and `runtime` the only importer of grpc."""

from infermesh.transport.client import RemoteService
from infermesh.transport.server import Server

__all__ = ["RemoteService", "Server"]
