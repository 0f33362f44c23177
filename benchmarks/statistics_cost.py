"""What counting costs a call of the predictor, alone: no server, no model.

python -m benchmarks.statistics_cost [--calls 20000] [--repeats 9]

Counted is what one call of a loaded model causes: its outcome and latency for Prometheus (`Metrics.request`), and the statistics
of its version: queue, run with rows and requests, answer, the clock readings in between, and the look for NaNs in a 1×3 FP32
output. The figure is the best of the repeats, since everything that disturbs a loop makes it slower.
"""

from __future__ import annotations

import argparse
import timeit
from time import perf_counter

import numpy as np

from benchmarks.pairs import machine
from infermesh.telemetry import Metrics
from services.predictor.nan import has_nan
from services.predictor.statistics import Statistics

BOUND_US = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    metrics, statistics = Metrics("predictor"), Statistics()
    output = np.array([[0.1, 0.2, 0.7]], np.float32)

    def outcome() -> None:
        started = perf_counter()
        metrics.request("iris", "2", "", "OK", perf_counter() - started)

    def version() -> None:
        statistics.begun += 1
        started = perf_counter()
        read = perf_counter()
        statistics.waited(0.0)
        statistics.executed(1, 1, 1e-5)
        ran = perf_counter()
        ended = perf_counter()
        statistics.answered(1, read - started, ended - ran, ended - started)

    def nan() -> None:
        has_nan("FP32", output)

    print(machine())
    total = 0.0
    for name, part in (("outcome and latency", outcome), ("version's statistics", version), ("NaN", nan)):
        cost = min(timeit.repeat(part, number=options.calls, repeat=options.repeats)) / options.calls * 1e6
        total += cost
        print(f"{name:24} {cost:5.2f} µs")
    print(f"{'per call':24} {total:5.2f} µs   bound {BOUND_US:g} µs: {'met' if total <= BOUND_US else 'NOT met'}")


if __name__ == "__main__":
    main()
