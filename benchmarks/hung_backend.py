"""A backend that takes every call and answers none.

python -m benchmarks.hung_backend PORT
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import uvloop


async def main(port: str) -> None:
    async def infer(request: bytes, context):
        await asyncio.get_running_loop().create_future()  # until the caller takes it back

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
