"""CPU per call of the predictor, on each engine, beside its peers: all serve the same model file from one core.

    python -m benchmarks.predictor_peers [--engine grpcio,envoy] [--payload iris|mlp|image] [--pairs 7] [--seconds 3]
                                         [--in-flight 64] [--peers bare,bare-asyncio,kserve,kserve-tuned,mlserver,
                                                                   mlserver-default,triton,triton-batched]

Without --payload: all three, one after the other. In flight are 64 calls, 16 of `image`, unless told. Every answer is compared
with that of our first engine, bit for bit, before anything is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.bounds import Bound, verdicts
from benchmarks.contenders import ENGINES, PEERS, answer, check_same, our_name, ours, serve, versions
from benchmarks.pairs import GRPC_LOAD, LEAN_LOAD, Rounds, run_rounds
from benchmarks.payloads import PAYLOADS, Payload

LEAN_UP_TO = 32_000  # bytes: what fits into a stream's window; carrying more costs all loads the same
MOST_OF_BARE = {  # our CPU to a bare server's, by engine and payload
    "grpcio": {"bare": {"iris": 1.2, "mlp": 1.2}},
    "envoy": {"bare-asyncio": {"iris": 0.28}},
}
LEAST_OF_PEERS = {  # a peer's CPU to ours, by engine, payload and project; asked of every way of running it
    "grpcio": {
        "iris": {"kserve": 1.4, "mlserver": 2.0},
        "mlp": {"kserve": 1.4, "mlserver": 2.0},
        "image": {"kserve": 2.5, "mlserver": 8.0},
    },
    "envoy": {"iris": {"kserve": 5.0, "mlserver": 7.0}, "image": {"kserve": 3.0}},
}
LEAST_CALLS = {"envoy": {"iris": {"triton": 1.2}}}  # our calls per second to a peer's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default=",".join(ENGINES))
    parser.add_argument("--payload", choices=PAYLOADS, action="append")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--in-flight", type=int)
    options = parser.parse_args()
    engines, peers = options.engine.split(","), list(filter(None, options.peers.split(",")))
    for option, given, known in (("--engine", engines, ENGINES), ("--peers", peers, PEERS)):
        if unknown := set(given) - set(known):
            parser.error(f"{option}: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are ended too
    for name in dict.fromkeys(options.payload or PAYLOADS):
        payload = PAYLOADS[name]
        print(
            f"== {name}: raw {payload.array.dtype} {list(payload.array.shape)}, {payload.array.nbytes} bytes",
            flush=True,
        )
        in_flight = options.in_flight or payload.in_flight
        measured = measure(payload, engines, peers, options.pairs, options.seconds, in_flight)
        print("\n".join(["", *verdicts(bounds(name, engines), measured)]), end="\n\n", flush=True)


def measure(
    payload: Payload, engines: Sequence[str], peers: Sequence[str], pairs: int, seconds: float, in_flight: int
) -> Rounds:
    """Start ours and the peers, hold their answers against each other, and compare."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        file = payload.write(Path(folder) / "models")
        contenders = [servers.enter_context(ours(payload, Path(folder) / "models", engine)) for engine in engines]
        expected = answer(contenders[0], payload)
        for name in peers:
            contenders.append(servers.enter_context(serve(PEERS[name], payload, file)))
            if PEERS[name].packages:
                print(f"{PEERS[name].title}: {versions(PEERS[name])}")
        of_columns = {PEERS[name].title for name in peers if PEERS[name].columns}
        for each in contenders[1:]:
            check_same(each.name, answer(each, payload), expected, columns=each.name in of_columns)
        print(f"all answer alike: {', '.join(f'{o.name} {o.datatype} {list(o.shape)}' for o in expected.outputs)}")
        request = Path(folder) / "request.bin"
        request.write_bytes(payload.request.SerializeToString())
        load = LEAN_LOAD if payload.array.nbytes <= LEAN_UP_TO else GRPC_LOAD
        return run_rounds(contenders, request, rounds=pairs, seconds=seconds, in_flight=in_flight, load=load)


def bounds(payload: str, engines: Sequence[str]) -> Iterator[Bound]:
    """What is asked for this payload, and beside it every other ratio of ours to a peer."""
    for engine in engines:
        mine = our_name(engine)
        for name, peer in PEERS.items():
            project = name.split("-")[0]
            if project == "bare":
                yield Bound(mine, peer.title, MOST_OF_BARE[engine].get(name, {}).get(payload))
            else:
                least = LEAST_OF_PEERS[engine].get(payload, {}).get(project)
                yield Bound(peer.title, mine, least, at_least=True)
            if calls := LEAST_CALLS.get(engine, {}).get(payload, {}).get(project):
                yield Bound(mine, peer.title, calls, at_least=True, key="calls_per_s")


if __name__ == "__main__":
    main()
