"""What a join costs: CPU in µs per request for reading the ids, naming the keys, and making the model's request.

`python -m benchmarks.join_cost [--seconds 0.3]`

50 FP32 features of one view, packed, all present; the lookup is not in it. Then the same with a request's field among the
columns, with transforms of all 50, with texts, with the statuses asked for, and with a feature that the request brings itself.
Each figure is the median of nine rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from infermesh.protocol import open_inference_pb2 as pb
from infermesh.telemetry import Metrics
from infermesh.tensors import add_inputs
from services.transformer.metrics import FeatureMetrics
from services.transformer.plan import JoinPlan
from services.transformer.row import RowFormat
from services.transformer.views import FeatureFile

ROUNDS = 9
FEATURES = 50
NOW_US = 1_700_000_000_000_000

VIEW: dict[str, Any] = {
    "entity": {"name": "card_id"},
    "max_age": "1h",
    "missing": "default",
    "stale": "serve",
    "unavailable": "default",
    "features": [{"name": f"f{number}", "default": 0.0} for number in range(FEATURES)],
}


Service = tuple[dict[str, Any], Callable[[pb.ModelInferRequest], object]]


def ask_for_statuses(request: pb.ModelInferRequest) -> None:
    request.parameters["infermesh_feature_status"].bool_param = True


def bring_a_feature(request: pb.ModelInferRequest) -> None:
    add_inputs(request, {"infermesh_feature.f7": np.ones((1, 1), np.float32)})


def leave(request: pb.ModelInferRequest) -> None:
    """Change nothing."""


ALL: dict[str, Any] = {"x": {"columns": ["card.*"]}}
AMOUNT = {"amount": "FP32"}
CHANNEL = {"column": "request.channel", "transform": [{"one_hot": ["web", "shop"]}]}
LOGS = {"column": "card.*", "transform": ["log1p", {"clip": [0, 10]}]}
SERVICES: dict[str, Service] = {
    "packed, as it is stored": ({"inputs": ALL}, leave),
    "a field of the request": ({"inputs": {"x": {"columns": ["card.*", "request.amount"]}}, "request": AMOUNT}, leave),
    "log1p and clip of all 50": ({"inputs": {"x": {"columns": [LOGS], "datatype": "FP32"}}}, leave),
    "one_hot of a text": (
        {"inputs": {"x": {"columns": ["card.*", CHANNEL], "datatype": "FP32"}}, "request": {"channel": "BYTES"}},
        lambda request: add_inputs(request, {"channel": np.full((request.inputs[0].shape[0], 1), b"web", np.object_)}),
    ),
    "statuses asked for": ({"inputs": ALL}, ask_for_statuses),
    "a feature overridden": ({"inputs": ALL, "overrides": "on"}, bring_a_feature),
}


def plan_of(service: dict[str, Any]) -> JoinPlan:
    """The plan of a model, with metrics as the transformer has them."""
    file = FeatureFile.model_validate({"views": {"card": VIEW}, "services": {"m": service}})
    metrics = FeatureMetrics(Metrics("transformer"), file.views, file.services)
    return JoinPlan(file, file.services["m"], prefix="infermesh", max_entities=10_000, tally=metrics.tally)


def request_of(rows: int) -> pb.ModelInferRequest:
    """A request with ids and one input beside them."""
    request = pb.ModelInferRequest(model_name="m")
    ids = np.array([b"c-%07d" % number for number in range(rows)], np.object_).reshape(-1, 1)
    add_inputs(request, {"card_id": ids, "amount": np.linspace(1, 500, rows, dtype=np.float32).reshape(-1, 1)})
    return request


def cost_us(work: Callable[[], object], seconds: float) -> float:
    """CPU in µs of one call."""
    work()
    began = time.process_time()
    work()
    once = max(time.process_time() - began, 1e-6)
    calls = max(5, round(seconds / ROUNDS / once))
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(calls):
            work()
        rounds.append((time.process_time() - began) * 1e6 / calls)
    return statistics.median(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each figure")
    seconds = parser.parse_args().seconds
    row = RowFormat([(f"f{number}", "FP32") for number in range(FEATURES)]).pack([0.5] * FEATURES, NOW_US)
    print(f"{'µs per request':32} {'1 row':>10} {'100 rows':>10}")
    for name, (service, change) in SERVICES.items():
        plan = plan_of(service)
        figures = []
        for rows in (1, 100):
            request, found = request_of(rows), [row] * rows
            change(request)

            def join(plan: JoinPlan = plan, request: Any = request, found: Any = found) -> None:
                entities = plan.read(request)
                assert entities is not None
                plan.keys(entities)
                plan.join(request, entities, found, NOW_US)
                if entities.wants_statuses:
                    plan.statuses(entities, found, NOW_US)

            figures.append(cost_us(join, seconds))
        print(f"{name:32} {figures[0]:10.2f} {figures[1]:10.2f}")


if __name__ == "__main__":
    main()
