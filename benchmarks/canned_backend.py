"""A backend that costs next to nothing, for measuring what stands before it: it answers every call with the same bytes.

python -m benchmarks.canned_backend RESPONSE_FILE PORT
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc
import uvloop


async def main(file: str, port: str) -> None:
    response = Path(file).read_bytes()  # noqa: ASYNC240  # before anything is served or sent

    async def infer(request: bytes, context):
        return response

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:3]))
