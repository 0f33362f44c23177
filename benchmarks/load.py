"""A closed-loop load: as many calls in flight as asked, the next one sent when one is answered. Loopback only.

    python -m benchmarks.load TARGET REQUEST_FILE SECONDS IN_FLIGHT [KEY]

REQUEST_FILE holds one serialised ModelInferRequest. Prints one JSON line: calls, errors, seconds, p50 and p99 in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
import uvloop

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MAX_SECONDS = 120


async def main(target: str, file: str, seconds: str, in_flight: str, key: str = "") -> None:
    if not target.startswith(("127.", "localhost:")):
        sys.exit("load goes to loopback only")
    request = Path(file).read_bytes()  # noqa: ASYNC240  # before anything is served or sent
    metadata = (("x-api-key", key),) if key else None
    latencies: list[float] = []
    errors = 0
    async with grpc.aio.insecure_channel(target) as channel:
        infer = channel.unary_unary(METHOD)
        await infer(request, timeout=10, metadata=metadata)
        began = time.perf_counter()
        end = began + min(float(seconds), MAX_SECONDS)

        async def caller() -> None:
            nonlocal errors
            while (started := time.perf_counter()) < end:
                try:
                    await infer(request, timeout=10, metadata=metadata)
                except grpc.aio.AioRpcError:
                    errors += 1
                else:
                    latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(caller() for _ in range(int(in_flight))))
        took = time.perf_counter() - began
    latencies.sort()
    quantile = (
        {f"p{q}_ms": round(latencies[len(latencies) * q // 100] * 1000, 3) for q in (50, 99)} if latencies else {}
    )
    print(json.dumps({"calls": len(latencies), "errors": errors, "seconds": took, **quantile}))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
