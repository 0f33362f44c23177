"""CPU per call of the transformer (gRPC in, lookup, join, gRPC out) beside a plain one on grpc.aio and redis-py.

    python -m benchmarks.transformer_cost [--pairs 9] [--seconds 2] [--in-flight 64] [--entities 1,32] [--peers texts,raw,packed]

50 FP32 features of each card; one Valkey, and one backend that answers with bytes that were made once; neither is counted. Ours
reads packed rows, and runs with the samples' settings. The peers (`bare_transformer.py`) read a hash with a decimal text for each
feature, a hash with four bytes for each, and a string with all of them. Only the first is bound to a figure: it is what people
have. The last is the floor for whatever is written on grpc.aio and redis-py.

The load sends 512 requests of different cards in turns: ours asks once for a key that several calls want at the same time, and
that would save it what its peers do. Before the load, the backend must get from each the features that were written, to the bit;
after it, Valkey must have been asked for each call. Then the parts of our hop alone, in this process: reading ids and naming
keys, the lookup with as many at a time as Valkey has met in one read under the load, and the join. Their share is of the hop's
CPU under that load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from redis import Redis

from benchmarks.feature_rows import fill, request_for
from benchmarks.pairs import Contender, Ratio, compare_all
from benchmarks.processes import LOAD_CORE, ROOT, cpu_s
from benchmarks.transformer_parts import Parts, measure_parts
from benchmarks.transformers import PEERS, backend, bare, check, transformer
from infermesh.cli.valkey import Valkey
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import add_outputs

BOUND, BOUND_PEER = 1.0, "texts"
SHARE_BOUND = 0.15  # of the lookup in the hop
CARDS = 8000
FIRST = 7  # any card but the first
REQUESTS = 512  # of which the neighbours, far more than are in flight, have no card in common


@dataclass(frozen=True, slots=True)
class Hop:
    """What a load has cost our transformer, and how Valkey has met it."""

    cpu_us: float  # of a call
    per_read: float  # commands that came in one read of Valkey
    asked: float  # commands for each call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--entities", default="1,32", help="of a request; several figures are several runs")
    parser.add_argument("--peers", default=",".join(PEERS))
    options = parser.parse_args()
    peers = options.peers.split(",")
    if unknown := set(peers) - set(PEERS):
        parser.error(f"--peers: expected some of {', '.join(PEERS)}, got {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are ended too
    failed = measure(
        [int(each) for each in options.entities.split(",")], peers, options.pairs, options.seconds, options.in_flight
    )
    for line in failed:
        print(f"FAILED: {line}")
    sys.exit(bool(failed))


def measure(counts: Sequence[int], peers: Sequence[str], pairs: int, seconds: float, in_flight: int) -> list[str]:
    """Start all, check and compare them, and print ratios and parts; returns what makes the figures worthless."""
    failed = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        valkey = servers.enter_context(Valkey())
        os.sched_setaffinity(valkey.pid, {int(LOAD_CORE)})
        fill(valkey.url, CARDS)
        port = servers.enter_context(backend(folder / "response.bin", answer()))
        ours = servers.enter_context(transformer(folder / "transformer", valkey.url, port))
        others = {storage: servers.enter_context(bare(storage, valkey.url, port)) for storage in peers}
        for count in counts:
            for each in (ours, *others.values()):
                check(each, FIRST, count)
            file = write_requests(folder / f"requests-{count}", count)
            print(f"\n--- {count} {'entity' if count == 1 else 'entities'} in a request; {load_average()}")
            ratios = compare_all(ours, list(others.values()), file, pairs=pairs, seconds=seconds, in_flight=in_flight)
            hop = loaded(ours, file, seconds, in_flight, valkey.url)
            failed += unasked(hop)
            parts = measure_parts(valkey.url, FIRST, count, at_a_time=max(1, round(hop.per_read)))
            print()
            _tell(ours, others, ratios)
            _tell_parts(hop, parts)
    return failed


def write_requests(folder: Path, count: int, cards: int = CARDS) -> Path:
    """The folder, with REQUESTS of so many cards each."""
    folder.mkdir()
    for number in range(REQUESTS):
        request = request_for(number * count % (cards - count), count)
        (folder / f"{number:03}.bin").write_bytes(request.SerializeToString())
    return folder


def answer() -> ModelInferResponse:
    """What the backend says of every card."""
    response = ModelInferResponse(model_name="fraud-detector", model_version="1", id="1")
    label, probabilities = np.array([0]), np.array([[0.9, 0.1]], np.float32)
    add_outputs(response, [("label", "INT64", label), ("probabilities", "FP32", probabilities)], raw=True)
    return response


def loaded(ours: Contender, file: Path, seconds: float, in_flight: int, url: str) -> Hop:
    """One more round of ours alone."""
    words = [ours.target, str(file), str(seconds), str(in_flight)]
    with Redis.from_url(url) as client:
        before, used = client.info(), cpu_s(ours.pids)
        done = subprocess.run(
            ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "benchmarks.load", *words],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        used, after = cpu_s(ours.pids) - used, client.info()
    said = json.loads(done.stdout)
    if said["errors"]:
        raise RuntimeError(f"{ours.name}: {said['errors']} calls failed: {said['failed']}")
    calls = said["calls"] + 1  # the load's first is not among them
    commands, reads = (after[key] - before[key] for key in ("total_commands_processed", "total_reads_processed"))
    return Hop(used / calls * 1e6, commands / reads, commands / calls)


def unasked(hop: Hop) -> list[str]:
    """What is wrong with a load for which Valkey was not asked; nothing when each call has asked it."""
    if hop.asked >= 1:
        return []
    return [f"Valkey got {hop.asked:.2f} commands for each call: others than the lookup have answered"]


def load_average() -> str:
    """Whether the machine was idle, to be stated beside the figures."""
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def _tell(ours: Contender, others: Mapping[str, Contender], ratios: Mapping[str, Ratio]) -> None:
    for storage, other in others.items():
        ratio = ratios[other.name]
        verdict = f"  bound {BOUND:g}: {_met(ratio.median, BOUND)}" if storage == BOUND_PEER else ""
        print(f"{ours.name} / {other.name}: {ratio}{verdict}")


def _tell_parts(hop: Hop, parts: Parts) -> None:
    share = parts.lookup_us / hop.cpu_us
    print(
        f"{hop.cpu_us:.0f} µs CPU per call in a round of its own; Valkey read {hop.per_read:.1f} commands at a time, "
        f"{hop.asked:.2f} for each call\nalone: ids and keys {parts.keys_us:.1f} µs, "
        f"lookup {parts.lookup_us:.1f} µs ({parts.at_a_time} at a time), join {parts.join_us:.1f} µs\n"
        f"the lookup is {share:.1%} of the hop  bound {SHARE_BOUND:.0%}: {_met(share, SHARE_BOUND)}"
    )


def _met(value: float, bound: float) -> str:
    return "met" if value <= bound else "NOT met"


if __name__ == "__main__":
    main()
