"""Comparing servers by what a call costs: rounds of load, on CPU time of the whole process trees.

Each server is pinned to core 0 and the load to core 1. Who begins a round changes from round to round, so that what disturbs
the machine meets all; a ratio is the median over the rounds of ours to the peer's in the same round.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import LOAD_CORE, ROOT, SERVER_CORE, cpu_s, free_port, machine, process, rss_bytes

__all__ = [
    "GRPC_LOAD",
    "LEAN_LOAD",
    "LOAD_CORE",
    "SERVER_CORE",
    "Contender",
    "Ratio",
    "Rounds",
    "compare",
    "compare_all",
    "free_port",
    "machine",
    "process",
    "run_rounds",
]

WARM_S = 1.0
GRPC_LOAD, LEAN_LOAD = "benchmarks.load", "benchmarks.lean_load"
BUSY = 0.9  # of a core: past it a load may ask less often than it would be answered


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that is measured: its processes, and the address and key that the load uses."""

    name: str
    pids: tuple[int, ...]
    target: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """What one contender's calls cost to another's, round by round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def inverse(self) -> Ratio:
        """The other's to the one's."""
        return Ratio(tuple(1 / r for r in self.rounds))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({min(self.rounds):.2f} to {max(self.rounds):.2f})"


@dataclass(frozen=True, slots=True)
class Rounds:
    """What was measured of each contender, by its name, round by round."""

    results: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def median(self, name: str, key: str) -> float:
        return statistics.median(r[key] for r in self.results[name])

    def ratio(self, one: str, other: str, key: str = "cpu_us") -> Ratio:
        """The one's to the other's in the same rounds."""
        both = zip(self.results[one], self.results[other], strict=True)
        return Ratio(tuple(mine[key] / theirs[key] for mine, theirs in both))

    def difference(self, one: str, other: str, key: str) -> Ratio:
        """The one's less the other's, in the same rounds."""
        both = zip(self.results[one], self.results[other], strict=True)
        return Ratio(tuple(mine[key] - theirs[key] for mine, theirs in both))

    def lines(self) -> list[str]:
        """A line of medians for each, and who was not asked as often as it could have answered."""
        lines = [
            f"{name:34} {self.median(name, 'cpu_us'):8.0f} µs CPU per call {self.median(name, 'calls_per_s'):7.0f} calls/s   "
            f"p50 {self.median(name, 'p50_ms'):7.2f} ms   p99 {self.median(name, 'p99_ms'):7.2f} ms   "
            f"RSS {of[-1]['rss_bytes'] / 1e6:4.0f} MB   "
            f"cores used {self.median(name, 'core'):.2f}, by the load {self.median(name, 'load_core'):.2f}"
            for name, of in self.results.items()
        ]
        return lines + [
            f"{name}: the load was the bottleneck, so calls/s are the load's"
            for name in self.results
            if self.median(name, "load_core") > BUSY > self.median(name, "core")
        ]


def compare(
    ours: Contender, peer: Contender, request_file: Path, *, pairs: int, seconds: float, in_flight: int
) -> float:
    """Print every pair of rounds and the medians; returns the median ratio of CPU per call, ours to the peer's."""
    ratios = compare_all(ours, [peer], request_file, pairs=pairs, seconds=seconds, in_flight=in_flight)
    return ratios[peer.name].median


def compare_all(
    ours: Contender, peers: Sequence[Contender], request_file: Path, *, pairs: int, seconds: float, in_flight: int
) -> dict[str, Ratio]:
    """Print every round and the medians; returns for each peer, by name, the ratio of CPU per call, ours to the peer's."""
    measured = run_rounds([ours, *peers], request_file, rounds=pairs, seconds=seconds, in_flight=in_flight)
    ratios = {peer.name: measured.ratio(ours.name, peer.name) for peer in peers}
    print(f"\nratios of CPU per call, median of {pairs} rounds (range):")
    for name, ratio in ratios.items():
        print(f"{ours.name} to {name}: {ratio};  the other way: {ratio.inverse}")
    return ratios


def run_rounds(
    contenders: Sequence[Contender],
    request_file: Path,
    *,
    rounds: int,
    seconds: float,
    in_flight: int,
    load: str = GRPC_LOAD,
    warm_s: float = WARM_S,
) -> Rounds:
    """Measure all, and print every round and the medians. Raises RuntimeError when calls fail."""
    print(
        f"{machine()}\n{in_flight} calls in flight, {rounds} rounds of {seconds:g} s each, in rotating order, {load}\n"
    )
    measured = Rounds({each.name: [] for each in contenders})
    for each in contenders:
        _round(each, request_file, warm_s, in_flight, load)
    for number in range(rounds):
        turn = number % len(contenders)
        for each in [*contenders[turn:], *contenders[:turn]]:
            measured.results[each.name].append(_round(each, request_file, seconds, in_flight, load))
        told = "   ".join(f"{name} {of[-1]['cpu_us']:.0f} µs" for name, of in measured.results.items())
        print(f"round {number + 1}: {told}", flush=True)
    print("\n" + "\n".join(measured.lines()), flush=True)
    return measured


def _round(contender: Contender, request_file: Path, seconds: float, in_flight: int, load: str) -> dict[str, float]:
    before = cpu_s(contender.pids)
    command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", load, contender.target, str(request_file)]
    done = subprocess.run(
        [*command, str(seconds), str(in_flight), contender.key], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{contender.name}: the load ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    used = cpu_s(contender.pids) - before
    told = json.loads(done.stdout)
    failed: dict[str, int] = told.pop("failed", {})
    result: dict[str, float] = told
    if result["errors"] or not result["calls"]:
        which = "; ".join(f"{count} × {what}" for what, count in failed.items())[:2000]
        raise RuntimeError(
            f"{contender.name}: {result['errors']:.0f} calls failed ({which}); nothing is measured by failures"
        )
    return result | {
        "cpu_us": used / result["calls"] * 1e6,
        "calls_per_s": result["calls"] / result["seconds"],
        "core": used / result["seconds"],
        "load_core": result["cpu_s"] / result["seconds"],
        "rss_bytes": rss_bytes(contender.pids),
    }
