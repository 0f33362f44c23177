"""Servers under the same load in turns; what is compared is the CPU time of each one's whole process tree per call.

The servers are pinned to core 0 and the load to core 1. Who begins a round changes from round to round, so that what disturbs
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
    "LOAD_CORE",
    "SERVER_CORE",
    "Contender",
    "Ratio",
    "compare",
    "compare_all",
    "free_port",
    "machine",
    "process",
]

WARM_S = 1.0


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


@dataclass(slots=True)
class _Record:
    """The rounds of one contender."""

    results: list[dict[str, float]] = field(default_factory=list)

    def median(self, key: str) -> float:
        return statistics.median(r[key] for r in self.results)


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
    print(f"{machine()}\n{in_flight} calls in flight, {pairs} rounds of {seconds:g} s each, in rotating order\n")
    contenders = [ours, *peers]
    records = {c.name: _Record() for c in contenders}
    for each in contenders:
        _round(each, request_file, WARM_S, in_flight)
    for number in range(pairs):
        turn = number % len(contenders)
        for each in contenders[turn:] + contenders[:turn]:
            records[each.name].results.append(_round(each, request_file, seconds, in_flight))
        print(f"round {number + 1}: " + "   ".join(f"{n} {r.results[-1]['cpu_us']:.0f} µs" for n, r in records.items()))
    print()
    for name, record in records.items():
        print(
            f"{name:34} {record.median('cpu_us'):8.0f} µs CPU per call {record.median('calls_per_s'):7.0f} calls/s   "
            f"p50 {record.median('p50_ms'):7.2f} ms   p99 {record.median('p99_ms'):7.2f} ms   "
            f"RSS {record.results[-1]['rss_bytes'] / 1e6:4.0f} MB"
        )
    ratios = {
        peer.name: Ratio(
            tuple(
                mine["cpu_us"] / theirs["cpu_us"]
                for mine, theirs in zip(records[ours.name].results, records[peer.name].results, strict=True)
            )
        )
        for peer in peers
    }
    print(f"\nratios of CPU per call, median of {pairs} rounds (range):")
    for name, ratio in ratios.items():
        print(f"{ours.name} to {name}: {ratio};  the other way: {ratio.inverse}")
    return ratios


def _round(contender: Contender, request_file: Path, seconds: float, in_flight: int) -> dict[str, float]:
    before = cpu_s(contender.pids)
    command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "benchmarks.load", contender.target, str(request_file)]
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
        "rss_bytes": rss_bytes(contender.pids),
    }
