"""CPU of a call through transformer and predictor, with features from Valkey: ours in each way beside KServe's SDK.

    python -m benchmarks.chain_cost [--way grpcio,envoy,envoy-http2] [--peers kserve,kserve-tuned] [--rounds 7] [--seconds 3]
                                    [--in-flight 64] [--entities 1]

Both services of a chain share core 0; the load and Valkey share core 1. Neighbours among the requests have no card in common. A
small perceptron is the model: what is compared is the way to it. Before the load each chain must say of cards, bit for bit,
what the model says of their features in process. Requests per CPU second are the inverse of CPU per call.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.bounds import Bound, verdicts
from benchmarks.chains import CARDS_MODEL, KSERVE, check, kserve, our_chain, our_name
from benchmarks.contenders import WAYS
from benchmarks.feature_rows import fill
from benchmarks.pairs import LEAN_LOAD, Rounds, run_rounds
from benchmarks.processes import LOAD_CORE
from benchmarks.transformer_cost import CARDS, FIRST, write_requests
from infermesh.cli.valkey import Valkey

LEAST_OF_KSERVE = {"envoy": 4.0, "envoy-http2": 4.0}  # of its CPU per call to ours; 5 is the aim


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", default=",".join(WAYS))
    parser.add_argument("--peers", default=",".join(KSERVE))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--entities", type=int, default=1)
    options = parser.parse_args()
    ways, peers = options.way.split(","), list(filter(None, options.peers.split(",")))
    for option, given, known in (("--way", ways, WAYS), ("--peers", peers, KSERVE)):
        if unknown := set(given) - set(known):
            parser.error(f"{option}: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are ended too
    measured = measure(ways, peers, options.rounds, options.seconds, options.in_flight, options.entities)
    print("\n".join(["", *verdicts(bounds(ways), measured)]))


def measure(
    ways: Sequence[str],
    peers: Sequence[str],
    rounds: int,
    seconds: float,
    in_flight: int,
    entities: int = 1,
    cards: int = CARDS,
) -> Rounds:
    """Start all, check and compare them."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        valkey = servers.enter_context(Valkey())
        os.sched_setaffinity(valkey.pid, {int(LOAD_CORE)})
        fill(valkey.url, cards)
        file = CARDS_MODEL.write(folder / "models")
        contenders = [
            servers.enter_context(our_chain(folder / way, folder / "models", valkey.url, way)) for way in ways
        ]
        contenders += [servers.enter_context(kserve(name, file, valkey.url)) for name in peers]
        for each in contenders:
            check(each, file, FIRST, 1)
            check(each, file, FIRST, 5)
        requests = write_requests(folder / "requests", entities, cards)
        return run_rounds(contenders, requests, rounds=rounds, seconds=seconds, in_flight=in_flight, load=LEAN_LOAD)


def bounds(ways: Sequence[str]) -> Iterator[Bound]:
    """What is asked beside every way of running KServe, and its cost to ours in the other ways."""
    for way in ways:
        for title in KSERVE.values():
            yield Bound(title, our_name(way), LEAST_OF_KSERVE.get(way), at_least=True)


if __name__ == "__main__":
    main()
