"""Two servers under the same load in turns; what is compared is the CPU time of each one's whole process tree per call.

The servers are pinned to core 0 and the load to core 1. Rounds alternate, so that what disturbs the machine meets both; the
ratio is the median over the pairs.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

__all__ = ["Contender", "compare", "free_port", "machine", "process"]

TICKS = os.sysconf("SC_CLK_TCK")
SERVER_CORE, LOAD_CORE = "0", "1"


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that is measured: its processes, and the address and key that the load uses."""

    name: str
    pids: tuple[int, ...]
    target: str
    key: str = ""


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def machine() -> str:
    """One line that says where and with what it was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("grpcio", "protobuf", "numpy", "onnxruntime", "uvloop")
    )
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}"


@contextlib.contextmanager
def process(
    arguments: Sequence[str], port: int, environment: dict[str, str] | None = None, core: str = SERVER_CORE
) -> Iterator[int]:
    """A Python process pinned to one core that is given once its port answers, and is ended by its id."""
    command = ["taskset", "-c", core, sys.executable, *arguments]
    child = subprocess.Popen(command, env=os.environ | (environment or {}), stderr=subprocess.DEVNULL)
    try:
        _await_port(child, port, arguments)
        yield child.pid
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def compare(
    ours: Contender, peer: Contender, request_file: Path, *, pairs: int, seconds: float, in_flight: int
) -> float:
    """Print every pair of rounds and the medians; returns the median ratio of CPU per call, ours to the peer's."""
    print(f"{machine()}\n{in_flight} calls in flight, {pairs} alternating pairs of {seconds:g} s\n")
    ratios, costs = [], {ours.name: [], peer.name: []}
    for each in (ours, peer):
        _round(each, request_file, 1.0, in_flight)  # warm
    for number in range(pairs):
        order = (ours, peer) if number % 2 else (peer, ours)
        results = {c.name: _round(c, request_file, seconds, in_flight) for c in order}
        for name, result in results.items():
            costs[name].append(result)
        ratio = results[ours.name]["cpu_us"] / results[peer.name]["cpu_us"]
        ratios.append(ratio)
        print(
            f"pair {number + 1}: "
            + "   ".join(f"{n} {r['cpu_us']:.0f} µs {r['calls_per_s']:.0f}/s" for n, r in results.items()),
            f"  ratio {ratio:.3f}",
        )
    print()
    for name, results in costs.items():
        median = {k: statistics.median(r[k] for r in results) for k in ("cpu_us", "calls_per_s", "p50_ms", "p99_ms")}
        print(
            f"{name:28} {median['cpu_us']:7.0f} µs CPU per call {median['calls_per_s']:7.0f} calls/s   "
            f"p50 {median['p50_ms']:.2f} ms   p99 {median['p99_ms']:.2f} ms"
        )
    ratio = statistics.median(ratios)
    print(
        f"\nratio of CPU per call, median of {pairs} pairs: {ratio:.3f}  (from {min(ratios):.3f} to {max(ratios):.3f})"
    )
    return ratio


def _round(contender: Contender, request_file: Path, seconds: float, in_flight: int) -> dict[str, float]:
    before = _cpu_s(contender.pids)
    command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "benchmarks.load", contender.target, str(request_file)]
    output = subprocess.run(
        [*command, str(seconds), str(in_flight), contender.key], check=True, capture_output=True, text=True
    ).stdout
    used = _cpu_s(contender.pids) - before
    result: dict[str, float] = json.loads(output)
    if result["errors"]:
        raise RuntimeError(f"{contender.name}: {result['errors']:.0f} calls failed; nothing is measured by failures")
    return result | {"cpu_us": used / result["calls"] * 1e6, "calls_per_s": result["calls"] / result["seconds"]}


def _cpu_s(pids: Sequence[int]) -> float:
    """User and system time of the processes and all that descends from them."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    tree = set(pids)
    while more := {pid for pid, (parent, _) in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(parents[pid][1] for pid in tree if pid in parents) / TICKS


def _await_port(child: subprocess.Popen[bytes], port: int, arguments: Sequence[str]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if child.poll() is not None:
            raise RuntimeError(f"{' '.join(arguments)} ended with status {child.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{' '.join(arguments)} did not listen on {port} within 30 s")
