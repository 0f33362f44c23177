"""What callers feel of a shadow that takes every copy and answers none, with all calls mirrored: p50 with it and without.

    python -m benchmarks.mirror_hung [--rounds 7] [--seconds 3] [--share 0.3]

Two gateways before the same backend; the calls of one are mirrored too. The load is open-loop, at `share` of what the gateway
without mirroring takes at most, which is measured first. The ratio is the median over alternating rounds. No call may fail, the
copies in flight have to be at their bound and never past it, and the mirroring gateway's memory has to stay where it is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gateway_cost import iris_request, iris_response
from benchmarks.gateways import check, gateway, gateway_did, sampled
from benchmarks.pairs import LOAD_CORE, Contender, Ratio, free_port, machine, process
from benchmarks.processes import ROOT, rss_bytes

BOUND = 1.10
IN_FLIGHT_BOUND = 64  # a shadow's `max_in_flight` as it comes
GROWTH_BYTES = 8 << 20  # from the first round to the last; pools and caches fill in the warm-up
WARM_S = 3.0
SATURATION_S = 3.0
LOOK_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--share", type=float, default=0.3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are ended too
    failed = measure(options.rounds, options.seconds, options.share)
    for line in failed:
        print(f"FAILED: {line}")
    sys.exit(bool(failed))


def measure(rounds: int, seconds: float, share: float) -> list[str]:
    """Run it and print the figures; returns what was not as it has to be."""
    request, response = iris_request(), iris_response()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        folder, backend, hung = Path(name), free_port(), free_port()
        (file := folder / "request.bin").write_bytes(request.SerializeToString())
        (folder / "response.bin").write_bytes(response.SerializeToString())
        canned = ["-m", "benchmarks.canned_backend", str(folder / "response.bin"), str(backend)]
        servers.enter_context(process(canned, backend, core=LOAD_CORE))
        servers.enter_context(process(["-m", "benchmarks.hung_backend", str(hung)], hung, core=LOAD_CORE))
        watched = {"CONCURRENCY__MODE": "observe"}  # so that calls in flight are told by backend; in both
        plain, _ = servers.enter_context(gateway(folder / "plain", backend, settings=watched))
        mirroring, port = servers.enter_context(
            gateway(folder / "mirroring", backend, mirrored=1, candidate_port=hung, settings=watched)
        )
        for each in (plain, mirroring):
            check(each, request, response)
        most = _load("load", plain, file, SATURATION_S, 64)
        rate = share * most["calls"] / most["seconds"]
        print(f"{machine()}\nsaturation {rate / share:.0f} calls/s, load {rate:.0f} calls/s, {rounds} rounds\n")
        for each in (plain, mirroring):
            _load("open_load", each, file, WARM_S, rate)
        before = rss_bytes(mirroring.pids)
        with _watched(port) as in_flight:
            results = _rounds(plain, mirroring, file, rounds, seconds, rate)
        grown, did = rss_bytes(mirroring.pids) - before, gateway_did(port)
    ratio = Ratio(tuple(two["p50_ms"] / one["p50_ms"] for one, two in results))
    for title, at in (("mirroring off", 0), ("all calls to a hung shadow", 1)):
        p50, p99 = (statistics.median(each[at][key] for each in results) for key in ("p50_ms", "p99_ms"))
        print(f"{title:28} p50 {p50:6.2f} ms   p99 {p99:6.2f} ms")
    print(f"p50 with / without: {ratio}  bound {BOUND}: {'met' if ratio.median <= BOUND else 'NOT met'}")
    print(
        f"copies in flight: {max(in_flight):.0f} at most, median {statistics.median(in_flight):.0f} of {len(in_flight)} looks"
    )
    print(f"memory of the mirroring gateway: {grown / 2**20:+.1f} MiB, bound {GROWTH_BYTES / 2**20:.0f}; {did}")
    return faults(sum(r["errors"] for pair in results for r in pair), in_flight, grown)


def faults(errors: float, in_flight: list[float], grown: int) -> list[str]:
    """What is not as it has to be, besides the ratio."""
    found = [f"{errors:.0f} calls failed"] if errors else []
    if max(in_flight) != IN_FLIGHT_BOUND:
        found.append(f"copies in flight: {max(in_flight):.0f} at most, expected {IN_FLIGHT_BOUND}")
    if grown > GROWTH_BYTES:
        found.append(f"memory grew by {grown / 2**20:.1f} MiB")
    return found


def _rounds(
    plain: Contender, mirroring: Contender, file: Path, rounds: int, seconds: float, rate: float
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """By round, without mirroring and with; who begins changes from round to round."""
    results = []
    for number in range(rounds):
        pair = [plain, mirroring] if number % 2 == 0 else [mirroring, plain]
        done = {each.name: _load("open_load", each, file, seconds, rate) for each in pair}
        results.append((done[plain.name], done[mirroring.name]))
        print(f"round {number + 1}: " + "   ".join(f"{name} p50 {r['p50_ms']:.2f} ms" for name, r in done.items()))
    print()
    return results


def _load(module: str, contender: Contender, file: Path, seconds: float, how: float) -> dict[str, float]:
    command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", f"benchmarks.{module}", contender.target, str(file)]
    more = [str(seconds), f"{how:g}", contender.key]
    done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


@contextlib.contextmanager
def _watched(port: int) -> Iterator[list[float]]:
    """Copies in flight, looked at while the block runs."""
    seen: list[float] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_S):
            seen.append(sampled(port, "infermesh_gateway_in_flight", backend="candidate"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
