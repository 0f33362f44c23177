"""What it costs to compare one pair of answers, in µs of the comparing process; nothing of it is on the way of a call.

python -m benchmarks.shadow_pair_cost [--rounds 9]

A fraud detector's answers (label INT64 [1], probabilities FP32 [1, 2], one threshold), equal and not, and FP32 [1000, 100]. From
the bytes of both messages to the counts. The median over rounds, least and most beside it.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np

from benchmarks.processes import machine
from infermesh.protocol.open_inference_pb2 import ModelInferResponse
from infermesh.tensors import Array, add_outputs
from services.gateway.compare.comparison import Comparison
from services.gateway.compare.pair import Answered, Pair
from services.gateway.compare_config import CompareConfig, ThresholdConfig

CONFIG = CompareConfig(
    classes=["genuine", "fraud"], thresholds=[ThresholdConfig(output="probabilities", column="fraud", at=0.5)]
)


def answer(*outputs: tuple[str, str, Array]) -> Answered:
    message = ModelInferResponse(model_name="m", model_version="1")
    add_outputs(message, outputs, raw=True)
    return Answered(message.SerializeToString(), 0.002)


def fraud(score: float) -> Answered:
    both = np.array([[1 - score, score]], "<f4")
    return answer(("label", "INT64", both.argmax(1).astype("<i8")), ("probabilities", "FP32", both))


def cost_us(first: list[Answered], second: list[Answered], rounds: int) -> list[float]:
    costs = []
    for _ in range(rounds):
        comparison = Comparison("m", "candidate", CONFIG)
        pairs = [Pair("shadow", f"r{at}", 0.0, *both) for at, both in enumerate(zip(first, second, strict=True))]
        began = time.process_time()
        for pair in pairs:
            comparison.add(pair)
        costs.append((time.process_time() - began) / len(pairs) * 1e6)
    return costs


def main(rounds: int) -> None:
    print(machine())
    numbers = np.random.default_rng(1)
    scores = numbers.uniform(0.01, 0.99, 2000)
    some = [fraud(score) for score in scores]
    near = [fraud(score + step) for score, step in zip(scores, numbers.normal(0, 1e-3, 2000), strict=True)]
    large = numbers.normal(0, 1, (1000, 100))
    first, second = (answer(("x", "FP32", (large + at * 1e-3).astype("<f4"))) for at in range(2))
    for name, one, other in (
        ("fraud detector, equal", some, some),
        ("fraud detector, not equal", some, near),
        ("FP32 [1000, 100], not equal", [first] * 20, [second] * 20),
    ):
        costs = cost_us(one, other, rounds)
        print(f"{name:28} {median(costs):8.0f} µs per pair ({min(costs):.0f} to {max(costs):.0f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    main(parser.parse_args().rounds)
