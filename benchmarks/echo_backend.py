"""A backend that costs next to nothing and can be looked into: canned bytes for every call, but for those with the id `echo`.

    python -m benchmarks.echo_backend RESPONSE_FILE PORT

A request with that id is answered with its own inputs as outputs: what a hop before it has made of a request can be checked.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc
import uvloop

from infermesh.protocol.open_inference_pb2 import ModelInferRequest, ModelInferResponse

ECHO = "echo"
_FIELD = b"\x1a\x04" + ECHO.encode()  # of the message's `id`; in the tensors' bytes it would cost a parse, no more


def echoed(raw: bytes) -> bytes | None:
    """The answer to a request that asks for its inputs; None to any other."""
    request = ModelInferRequest.FromString(raw)
    if request.id != ECHO:
        return None
    response = ModelInferResponse(model_name=request.model_name, id=request.id)
    for tensor in request.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    response.raw_output_contents.extend(request.raw_input_contents)
    return response.SerializeToString()


async def main(file: str, port: str) -> None:
    response = Path(file).read_bytes()  # noqa: ASYNC240  # before anything is served or sent

    async def infer(request: bytes, context):
        return (echoed(request) if _FIELD in request else None) or response

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:3]))
