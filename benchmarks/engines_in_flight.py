"""What a call of the predictor costs with few calls in flight and with many, on each engine and beside a bare grpc.aio server.

    python -m benchmarks.engines_in_flight [--in-flight 1,4,16,64] [--rounds 9] [--seconds 2]

Envoy's engine lives of calls that come together. With one in flight its median is held against that of grpc.aio on uvloop: of our
own predictor on it, which does the same for a call, and of a bare server, which does nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.bounds import Bound, Later, verdicts
from benchmarks.contenders import ENGINES, PEERS, answer, check_same, our_name, ours, serve
from benchmarks.pairs import LEAN_LOAD, Rounds, run_rounds
from benchmarks.payloads import PAYLOADS

LATER_MS = 0.1  # with one call in flight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", default="1,4,16,64")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are ended too
    measure([int(each) for each in options.in_flight.split(",")], options.rounds, options.seconds)


def measure(counts: Sequence[int], rounds: int, seconds: float) -> dict[int, Rounds]:
    """Start all, hold their answers against each other, compare for each number of calls in flight, and print."""
    payload, peer = PAYLOADS["iris"], PEERS["bare"]
    done = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        file = payload.write(Path(folder) / "models")
        contenders = [servers.enter_context(ours(payload, Path(folder) / "models", engine)) for engine in ENGINES]
        contenders.append(servers.enter_context(serve(peer, payload, file)))
        expected = answer(contenders[0], payload)
        for each in contenders[1:]:
            check_same(each.name, answer(each, payload), expected)
        request = Path(folder) / "request.bin"
        request.write_bytes(payload.request.SerializeToString())
        for count in counts:
            print(f"--- {count} in flight", flush=True)
            done[count] = run_rounds(
                contenders, request, rounds=rounds, seconds=seconds, in_flight=count, load=LEAN_LOAD
            )
            print("\n".join(["", *verdicts(bounds(count), done[count])]), end="\n\n", flush=True)
    return done


def bounds(count: int) -> Iterator[Bound | Later]:
    """What is asked with so many calls in flight."""
    grpcio, envoy = map(our_name, ENGINES)
    yield Bound(envoy, grpcio)
    yield Bound(envoy, PEERS["bare"].title)
    if count == 1:
        yield Later(envoy, grpcio, LATER_MS)
        yield Later(envoy, PEERS["bare"].title, LATER_MS)


if __name__ == "__main__":
    main()
