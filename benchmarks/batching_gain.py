"""What batching gains, and what it costs a lone caller: the predictor with batching on and off, an MLP of 34 MB.

python -m benchmarks.batching_gain [--pairs 7] [--seconds 3] [--in-flight 64]

Both are real predictor processes on one core, the load on the other. A round is one of each, in alternating order; a ratio is the
median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.batching_model import COLUMNS, write_model
from benchmarks.processes import LOAD_CORE, ROOT, free_port, machine, process
from infermesh.protocol.open_inference_pb2 import ModelInferRequest
from infermesh.tensors import add_inputs

LEAST_GAIN, MOST_LONE = 3.0, 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    request = ModelInferRequest(model_name="mlp", id="1")
    add_inputs(request, {"x": np.random.default_rng(1).standard_normal((1, COLUMNS)).astype(np.float32)})
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        file = Path(folder) / "request.bin"
        file.write_bytes(request.SerializeToString())
        on, off = free_port(), free_port()
        with (
            process(["-m", "services.predictor"], on, _environment(on, folder, batching=True)),
            process(["-m", "services.predictor"], off, _environment(off, folder, batching=False)),
        ):
            print(f"{machine()}\n{options.in_flight} callers and one, {options.pairs} pairs of {options.seconds:g} s\n")
            gain = _ratio("calls_per_s", "calls/s", on, off, file, options.in_flight, options)
            lone = _ratio("p50_ms", "ms p50", on, off, file, 1, options)
    print(f"\nthroughput on / off {gain:.2f}, aim {LEAST_GAIN}: {'met' if gain >= LEAST_GAIN else 'NOT met'}")
    print(f"p50 of a lone caller on / off {lone:.3f}, bound {MOST_LONE}: {'met' if lone <= MOST_LONE else 'NOT met'}")


def _ratio(key: str, unit: str, on: int, off: int, file: Path, in_flight: int, options: argparse.Namespace) -> float:
    """The median over the pairs of the figure with batching to the one without."""
    figures: dict[int, list[float]] = {on: [], off: []}
    for port in figures:
        _round(port, file, 1.0, in_flight)
    for number in range(options.pairs):
        for port in (on, off) if number % 2 else (off, on):
            figures[port].append(_round(port, file, options.seconds, in_flight)[key])
    ratios = [a / b for a, b in zip(figures[on], figures[off], strict=True)]
    print(
        f"{in_flight:3} in flight: on {statistics.median(figures[on]):9.3f} {unit}   off "
        f"{statistics.median(figures[off]):9.3f} {unit}   ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )
    return statistics.median(ratios)


def _round(port: int, file: Path, seconds: float, in_flight: int) -> dict[str, float]:
    command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "benchmarks.load", f"127.0.0.1:{port}", str(file)]
    output = subprocess.run(
        [*command, str(seconds), str(in_flight)], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    result: dict[str, float] = json.loads(output)
    if result["errors"] or not result["calls"]:
        raise RuntimeError(f"{result['errors']:.0f} calls failed; nothing is measured by failures")
    return result | {"calls_per_s": result["calls"] / result["seconds"]}


def _environment(port: int, root: str, *, batching: bool) -> dict[str, str]:
    settings = {
        "SERVER__HOST": "127.0.0.1",
        "SERVER__GRPC_PORT": str(port),
        "SERVER__HTTP_PORT": "0",
        "SERVER__DRAIN": "0s",
        "REPOSITORY__ROOT": root,
        "EXECUTION__INTRA_OP_THREADS": "1",
        "BATCHING__ENABLED": str(batching).lower(),
    }
    return {f"INFERMESH_PREDICTOR__{name}": value for name, value in settings.items()}


if __name__ == "__main__":
    main()
