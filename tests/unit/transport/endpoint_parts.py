"""What the tests of endpoints put together: names, a watcher, a server that does not keep to the protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from infermesh.call import Call
from infermesh.deadline import Deadline
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.transport import RemoteService

__all__ = ["QUICK", "REQUEST", "Names", "Strange", "Watched", "ask", "soon"]


REQUEST = pb.ModelInferRequest(model_name="m", id="7")


QUICK = {"failures": 3, "backoff": "50ms", "max_backoff": "100ms", "patience": "50ms"}


class Names:
    """DNS as a test wants it."""

    changes = True

    def __init__(self, *addresses: str) -> None:
        self.addresses = sorted(addresses)
        self.error: OSError | None = None
        self.asked = 0

    async def resolve(self) -> list[str]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.addresses


class Watched:
    """What was told of the endpoints."""

    def __init__(self) -> None:
        self.now = (0, 0, 0)
        self.changes: list[str] = []
        self.look_ups: list[bool] = []

    def endpoints(self, ready: int, ejected: int, away: int) -> None:
        self.now = (ready, ejected, away)

    def breaker(self, change: str) -> None:
        self.changes.append(change)

    def resolved(self, good: bool) -> None:
        self.look_ups.append(good)


def soon(seconds: float = 5.0, tried: tuple[str, ...] = ()) -> Call:
    return Call(deadline=Deadline.after(seconds), tried=tried)


async def ask(backend: RemoteService, seconds: float = 5.0) -> pb.ModelInferResponse:
    return await backend.infer(REQUEST, soon(seconds))


class Strange:
    """A gRPC server without a health service that answers ModelInfer as a test says; `port` is its own."""

    def __init__(self) -> None:
        self.answer: Callable[[bytes, Any], Any] = self.echo
        self.asked = 0
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        method = grpc.unary_unary_rpc_method_handler(self._infer)
        handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})
        self._server.add_generic_rpc_handlers((handler,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def _infer(self, request: bytes, context: Any) -> bytes:
        self.asked += 1
        result: bytes = await self.answer(request, context)
        return result

    async def echo(self, request: bytes, context: Any) -> bytes:
        asked = pb.ModelInferRequest.FromString(request)
        return pb.ModelInferResponse(model_name=asked.model_name, id=asked.id).SerializeToString()

    async def __aenter__(self) -> Strange:
        await self._server.start()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._server.stop(0)
