"""Streams and credentials: who has none opens none, and those that are open are looked at again with each request."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from infermesh.call import Call
from infermesh.config import ServerConfig
from infermesh.errors import Unauthenticated
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol import open_inference_pb2_grpc as pb_grpc
from infermesh.service import InferenceService, stack
from infermesh.transport import Server

GOOD = [("x-api-key", "k")]


class Guarded(InferenceService):
    """Admits who has the key, as long as it counts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.key = "k"

    async def admit(self, rpc: str, model: str, version: str, call: Call) -> None:
        self.asked.append((rpc, model))
        if call.metadata.get("x-api-key") != self.key:
            raise Unauthenticated("no key")

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        await self.admit("ModelInfer", request.model_name, "", call)
        return pb.ModelInferResponse(model_name=request.model_name)


async def test_streams_of_strangers_shut_nobody_out(serve: Any) -> None:
    """Idle streams without a credential end at once, however many there are; nothing has to be sent on them for that."""
    running = await serve(Guarded(), max_streams=1)

    strangers = [running.stub.ModelStreamInfer() for _ in range(20)]
    codes = {await each.code() for each in strangers}
    stream = running.stub.ModelStreamInfer(metadata=GOOD)
    await stream.write(pb.ModelInferRequest(model_name="m"))
    answer = await stream.read()

    assert codes <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert grpc.StatusCode.UNAUTHENTICATED in codes
    assert answer.infer_response.model_name == "m"


async def test_each_message_of_a_stream_is_admitted(serve: Any) -> None:
    """Bytes that are none too: a credential that was good when the stream was opened may be good no more."""
    running = await serve(Guarded())
    stream = running.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(metadata=GOOD)
    message = pb.ModelInferRequest(model_name="m").SerializeToString()

    await stream.write(message)
    good = pb.ModelStreamInferResponse.FromString(await stream.read())
    running.service.key = "another"
    for each in (b"\xff\xff\xff", message):
        await stream.write(each)
        assert pb.ModelStreamInferResponse.FromString(await stream.read()).error_message == "no key"

    assert good.infer_response.model_name == "m"
    asked = [("ModelStreamOpen", ""), ("ModelInfer", "m"), ("ModelStreamInfer", ""), ("ModelInfer", "m")]
    assert running.service.asked == asked


async def test_a_stream_that_is_not_opened_is_counted_once() -> None:
    """With the code that its caller sees, as what no filter saw."""
    seen: list[tuple[str, str]] = []
    config = ServerConfig(host="127.0.0.1", grpc_port=0)
    server = Server("tested", config, inside_mesh=False, refused=lambda model, code: seen.append((model, code)))
    await server.start()
    try:
        server.mount(stack(service=Guarded()))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stream = pb_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
            with pytest.raises(grpc.aio.AioRpcError, match="no key"):
                await stream.read()
    finally:
        await server.stop(0)

    assert seen == [("", "UNAUTHENTICATED")]
