"""The floor for a gateway: grpc.aio on both sides, on uvloop, bytes passed through unread.

python -m benchmarks.bare_proxy TARGET PORT
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import uvloop

METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def main(target: str, port: str) -> None:
    forward = grpc.aio.insecure_channel(target).unary_unary(METHOD)

    async def infer(request: bytes, context):
        return await forward(request, timeout=context.time_remaining())

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:3]))
