"""A client that opens calls and does nothing more, until it is killed: `python many_streams.py PORT COUNT`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

from e2e_wire import DATA  # noqa: E402

from tests.abuse.attacker import framed, opened  # noqa: E402
from tests.abuse.victim import request  # noqa: E402

WATCH, STREAM = "/grpc.health.v1.Health/Watch", "/inference.GRPCInferenceService/ModelStreamInfer"
GOOD = framed(request().SerializeToString())


async def hold(port: int, count: int) -> None:
    """A third of each: watchers, unary calls in the middle of a message, streams that have had an answer."""
    async with opened(port) as client:
        for at in range(count):
            match at % 3:
                case 0:
                    client.call(framed(b""), path=WATCH)
                case 1:
                    client.call(GOOD[:-3], end=False)
                case _:
                    client.call(GOOD, path=STREAM, end=False)
        await client.until_seen(DATA, len(range(0, count, 3)) + len(range(2, count, 3)))
        print("open", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(hold(int(sys.argv[1]), int(sys.argv[2])))
