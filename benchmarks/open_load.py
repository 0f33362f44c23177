"""An open-loop load: calls begin when they are due, whether those before were answered or not. Loopback only.

    python -m benchmarks.open_load TARGET REQUEST_FILE SECONDS RATE [KEY]

REQUEST_FILE holds one serialised ModelInferRequest. A call's latency counts from when it was due. Prints one JSON line: calls,
errors, seconds, p50 and p99 in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
import uvloop

from benchmarks.load import MAX_SECONDS, METHOD

MOST_UNDER_WAY = 2000  # a server that has stopped is not to be buried


async def main(target: str, file: str, seconds: str, rate: str, key: str = "") -> None:
    if not target.startswith(("127.", "localhost:")):
        sys.exit("load goes to loopback only")
    request = Path(file).read_bytes()  # noqa: ASYNC240  # before anything is served or sent
    metadata = (("x-api-key", key),) if key else None
    latencies: list[float] = []
    errors = 0
    calls: set[asyncio.Task[None]] = set()
    async with grpc.aio.insecure_channel(target) as channel:
        infer = channel.unary_unary(METHOD)
        await infer(request, timeout=10, metadata=metadata)

        async def call(due: float) -> None:
            nonlocal errors
            try:
                await infer(request, timeout=10, metadata=metadata)
            except grpc.aio.AioRpcError:
                errors += 1
            else:
                latencies.append(time.perf_counter() - due)

        began = time.perf_counter()
        for number in range(int(min(float(seconds), MAX_SECONDS) * float(rate))):
            due = began + number / float(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if len(calls) >= MOST_UNDER_WAY:
                errors += 1
                continue
            task = asyncio.ensure_future(call(due))
            calls.add(task)
            task.add_done_callback(calls.discard)
        if calls:
            await asyncio.wait(calls)
        took = time.perf_counter() - began
    latencies.sort()
    quantile = (
        {f"p{q}_ms": round(latencies[len(latencies) * q // 100] * 1000, 3) for q in (50, 99)} if latencies else {}
    )
    print(json.dumps({"calls": len(latencies), "errors": errors, "seconds": took, **quantile}))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
