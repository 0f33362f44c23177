"""A closed-loop load: as many calls in flight as asked, the next one sent when one is answered. Loopback only.

    python -m benchmarks.load TARGET REQUESTS SECONDS IN_FLIGHT [KEY]

REQUESTS is a file that holds one serialised ModelInferRequest, or a folder of such files: they are sent in turns, in the order of
their names, for servers that would do the same work once for calls that ask for the same. Prints one JSON line: calls, errors,
`failed` (how many by status and message, at most ten), seconds, `cpu_s` (of the load itself), p50 and p99 in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

import grpc
import uvloop

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MAX_SECONDS = 120
TOLD = 10  # kinds of failure


def requests_of(path: Path) -> list[bytes]:
    """The serialised requests of a file or a folder. Raises ValueError for a folder without any."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: expected requests, got an empty folder")
    return [file.read_bytes() for file in files]


async def main(target: str, file: str, seconds: str, in_flight: str, key: str = "") -> None:
    if not target.startswith(("127.", "localhost:")):
        sys.exit("load goes to loopback only")
    requests = cycle(requests_of(Path(file)))  # before anything is served or sent
    metadata = (("x-api-key", key),) if key else None
    latencies: list[float] = []
    failed: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(target) as channel:
        infer = channel.unary_unary(METHOD)
        await infer(next(requests), timeout=10, metadata=metadata)
        used, began = time.process_time(), time.perf_counter()
        end = began + min(float(seconds), MAX_SECONDS)

        async def caller() -> None:
            while (started := time.perf_counter()) < end:
                try:
                    await infer(next(requests), timeout=10, metadata=metadata)
                except grpc.aio.AioRpcError as error:
                    failed[f"{error.code().name}: {error.details()}"] += 1
                else:
                    latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(caller() for _ in range(int(in_flight))))
        took, used = time.perf_counter() - began, time.process_time() - used
    latencies.sort()
    quantile = (
        {f"p{q}_ms": round(latencies[len(latencies) * q // 100] * 1000, 3) for q in (50, 99)} if latencies else {}
    )
    told = dict(failed.most_common(TOLD))
    errors = failed.total()
    counted = {"calls": len(latencies), "errors": errors, "failed": told, "seconds": took, "cpu_s": used}
    print(json.dumps({**counted, **quantile}))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
