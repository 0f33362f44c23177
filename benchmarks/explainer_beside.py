"""How long predictions take while an explanation of many rows asks the same predictor.

python -m benchmarks.explainer_beside [--rounds 5] [--rows 100] [--seconds 3]

One caller predicts one row after the other, of the model that is explained, alone and then beside `kernel` explanations. Three
ways take turns: explanations with the default `asking.max_rows`, whose ModelInfers the predictor runs in slices; the same
without slices (`execution.slice_rows` 0); and small ModelInfers of 4096 rows without slices. Milliseconds are the caller's.
"""

from __future__ import annotations

import argparse
import threading
import time
from statistics import median
from typing import NamedTuple

import grpc
import numpy as np

from benchmarks.explainer_cost import EVALS, MODEL, VERSION, Servers, ours, served, sought
from benchmarks.processes import machine
from benchmarks.tree_shap import Tensors, draw
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from infermesh.tensors import add_inputs

__all__ = ["WAYS", "Beside", "beside"]

WAYS: dict[str, dict[str, int]] = {  # arguments of `served`
    "default: up to 131,072 rows, in slices": {},
    "up to 131,072 rows, whole": {"slice_rows": 0},
    "up to 4,096 rows, whole": {"max_rows": 4096, "slice_rows": 0},
}


class Beside(NamedTuple):
    """A prediction's milliseconds, and how many explanations there were."""

    p50: float
    p99: float
    worst: float
    predictions: int
    explanations: float
    """A second."""


def predictions(target: str, row: Tensors, until: threading.Event) -> list[float]:
    """Milliseconds of each, one after the other; one at least."""
    request = pb.ModelInferRequest(model_name=MODEL, model_version=VERSION)
    add_inputs(request, row)
    took: list[float] = []
    with grpc.insecure_channel(target) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        infer(request, timeout=30, wait_for_ready=True)
        while not took or not until.is_set():
            began = time.perf_counter()
            infer(request, timeout=30)
            took.append(1000 * (time.perf_counter() - began))
    return took


def beside(servers: Servers, rows: Tensors, seconds: float, evaluations: int | None = EVALS["kernel"]) -> Beside:
    """Predict for so long, with explanations going on, one after the other; without `evaluations` there are none."""
    done, failed, explained = threading.Event(), list[Exception](), 0
    end = time.perf_counter() + seconds

    def explain() -> None:
        nonlocal explained
        try:
            while time.perf_counter() < end:
                if evaluations is None:
                    time.sleep(0.05)
                else:
                    ours(servers, rows, sought("kernel", explained, evaluations))
                    explained += 1
        except Exception as error:
            failed.append(error)
        finally:
            done.set()

    explaining, began = threading.Thread(target=explain), time.perf_counter()
    explaining.start()
    took = predictions(servers.predictor, {name: array[:1] for name, array in rows.items()}, done)
    explaining.join()
    if failed:
        raise failed[0]
    p50, p99 = np.percentile(took, [50, 99])
    return Beside(float(p50), float(p99), max(took), len(took), explained / (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    rows = draw(np.random.default_rng(1), options.rows)
    found: dict[str, list[Beside]] = {"alone": [], **{way: [] for way in WAYS}}
    for turn in range(options.rounds):
        for way in list(WAYS)[:: 1 if turn % 2 else -1]:
            with served(**WAYS[way]) as servers:
                beside(servers, rows, 0.1)  # the first large request tries out whether rows are independent
                if way == next(iter(WAYS)):
                    found["alone"].append(beside(servers, rows, options.seconds, evaluations=None))
                found[way].append(beside(servers, rows, options.seconds))
    print(f"{machine()}\n{options.rows} rows, {options.rounds} rounds, medians of a prediction's milliseconds")
    for way, each in found.items():
        p50, p99, worst, _, explanations = (median(column) for column in zip(*each, strict=True))
        print(f"{way:42} p50 {p50:7.2f}   p99 {p99:7.2f}   worst {worst:8.2f}   {explanations:5.2f} explanations/s")


if __name__ == "__main__":
    main()
