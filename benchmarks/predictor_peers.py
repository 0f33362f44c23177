"""CPU per call of the predictor beside its peers, all serving the same model file from one core.

    python -m benchmarks.predictor_peers [--payload iris|mlp|image] [--peers bare,kserve,kserve-tuned,mlserver,mlserver-default]
                                         [--pairs 7] [--seconds 3] [--in-flight 64]

Without --payload: all three, one after the other. In flight are 64 calls, 16 of `image`, unless told. Every peer's answer is
compared with ours, bit for bit, before anything is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.contenders import PEERS, answer, check_same, ours, serve, versions
from benchmarks.pairs import Ratio, compare_all
from benchmarks.payloads import PAYLOADS, Payload

MOST_OF_BARE = {"iris": 1.2, "mlp": 1.2}  # our CPU to the bare server's
LEAST_OF_PEERS = {  # a peer's CPU to ours, by payload and project; asked of every way of running it
    "iris": {"kserve": 1.4, "mlserver": 2.0},
    "mlp": {"kserve": 1.4, "mlserver": 2.0},
    "image": {"kserve": 2.5, "mlserver": 8.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payload", choices=PAYLOADS, action="append")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--in-flight", type=int)
    options = parser.parse_args()
    peers = options.peers.split(",")
    if unknown := set(peers) - set(PEERS):
        parser.error(f"--peers: expected some of {', '.join(PEERS)}, got {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are ended too
    for name in dict.fromkeys(options.payload or PAYLOADS):
        payload = PAYLOADS[name]
        print(
            f"== {name}: raw {payload.array.dtype} {list(payload.array.shape)}, {payload.array.nbytes} bytes",
            flush=True,
        )
        ratios = measure(payload, peers, options.pairs, options.seconds, options.in_flight or payload.in_flight)
        print("\n".join(verdicts(name, ratios)), end="\n\n", flush=True)


def measure(payload: Payload, peers: list[str], pairs: int, seconds: float, in_flight: int) -> dict[str, Ratio]:
    """Start ours and the peers, hold their answers against each other, and compare; returns the ratios by peer."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        file = payload.write(Path(folder) / "models")
        mine = servers.enter_context(ours(payload, Path(folder) / "models"))
        expected = answer(mine, payload)
        theirs = {}
        for name in peers:
            theirs[name] = servers.enter_context(serve(PEERS[name], payload, file))
            check_same(PEERS[name].title, answer(theirs[name], payload), expected)
            if PEERS[name].packages:
                print(f"{PEERS[name].title}: {versions(PEERS[name])}")
        print(f"all answer alike: {', '.join(f'{o.name} {o.datatype} {list(o.shape)}' for o in expected.outputs)}")
        request = Path(folder) / "request.bin"
        request.write_bytes(payload.request.SerializeToString())
        ratios = compare_all(mine, list(theirs.values()), request, pairs=pairs, seconds=seconds, in_flight=in_flight)
    return {name: ratios[contender.name] for name, contender in theirs.items()}


def verdicts(payload: str, ratios: dict[str, Ratio]) -> list[str]:
    """One line for each bound that there is for this payload, from the medians."""
    lines = []
    if "bare" in ratios and payload in MOST_OF_BARE:
        median, most = ratios["bare"].median, MOST_OF_BARE[payload]
        lines.append(f"ours ≤ {most} × bare: {median:.2f}, {'met' if median <= most else 'NOT met'}")
    for project, least in LEAST_OF_PEERS[payload].items():
        for name, ratio in ratios.items():
            if name.startswith(project):
                times = ratio.inverse.median
                lines.append(
                    f"{PEERS[name].title} ≥ {least} × ours: {times:.2f}, {'met' if times >= least else 'NOT met'}"
                )
    return lines


if __name__ == "__main__":
    main()
