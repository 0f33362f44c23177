"""What a small request can make of stored rows and declared transforms is bounded, before the work is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import ResourceExhausted
from infermesh.protocol import open_inference_pb2 as pb
from services.transformer.join_features import JoinFeatures
from services.transformer.plan import JoinPlan
from services.transformer.row import RowFormat
from services.transformer.store import FeatureStore

PlanOf = Callable[..., JoinPlan]
RequestOf = Callable[..., pb.ModelInferRequest]

EMBEDDING = {
    "entity": {"name": "id"},
    "missing": "default",
    "features": [{"name": "e", "shape": [16384], "default": [0.0] * 16384}, {"name": "n", "default": 0.0}],
}
NOTE = {"entity": {"name": "id"}, "missing": "default", "features": [{"name": "t", "datatype": "BYTES", "default": ""}]}
TOKENS = {"request": {"tokens": {"datatype": "INT64", "shape": [512]}}}
HASHED = {"x": {"columns": [{"column": "request.tokens", "transform": [{"hash": 1000}]}], "datatype": "INT64"}}


@pytest.mark.parametrize("feature", ["e", "n"])
def test_wide_rows_are_bounded_by_their_bytes(plan_of: PlanOf, request_of: RequestOf, feature: str) -> None:
    """1,024 rows of 64 KiB are more than one request may have laid together, also where the model takes little of them."""
    plan = plan_of({"c": EMBEDDING}, {"x": {"feature": f"c.{feature}"}})

    assert plan.read(request_of({"id": [b"c"] * 1000})) is not None
    with pytest.raises(ResourceExhausted, match=r'"m": 1024 rows of 655\d\d bytes .* at most 67108864') as refused:
        plan.read(request_of({"id": [b"c"] * 1024}))

    assert refused.value.reason == "JOINED_TOO_LARGE"
    assert not refused.value.rejected  # or gateways would send it again


def test_a_declared_matrix_is_bounded_too(plan_of: PlanOf, request_of: RequestOf) -> None:
    """A word that becomes 4,096 columns is what these are, not what the word is."""
    step = {"one_hot": [str(n) for n in range(4096)]}
    inputs = {"x": {"columns": [{"column": "request.w", "transform": [step]}], "datatype": "FP32"}}
    plan = plan_of({}, inputs, request={"w": "BYTES"})

    assert plan.read(request_of({"w": [b"5"] * 4096})) is not None
    with pytest.raises(ResourceExhausted, match="4097 rows of 16384 bytes"):
        plan.read(request_of({"w": [b"5"] * 4097}))


def test_stored_texts_are_bounded_when_they_are_known(plan_of: PlanOf, request_of: RequestOf, now_us: int) -> None:
    """How long texts are, the rows say: 65 times one of 1 MiB is refused before it is copied."""
    plan = plan_of({"c": NOTE}, {"x": {"feature": "c.t"}})
    held = RowFormat([("t", "BYTES")]).pack([b"x" * 2**20], now_us)
    request = request_of({"id": [b"c"] * 65})
    entities = plan.read(request)
    assert entities is not None

    with pytest.raises(ResourceExhausted, match="65 rows of a view have 681") as refused:
        plan.serve(entities, [held] * 65, now_us)

    assert refused.value.reason == "JOINED_TOO_LARGE"


def test_texts_that_every_row_shares_are_bounded(plan_of: PlanOf, request_of: RequestOf, now_us: int) -> None:
    """A default, or one text of the caller's for all rows, is copied for each when the model's request is made."""
    plan = plan_of({"c": NOTE}, {"x": {"feature": "c.t"}}, overrides="on")
    arrays = {"id": [b"c"] * 65, "infermesh_feature.t": [b"x" * 2**20]}
    request = request_of(arrays)
    entities = plan.read(request)
    assert entities is not None

    with pytest.raises(ResourceExhausted, match='input "x": its texts have 68157440 bytes') as refused:
        plan.join(request, entities, [None] * 65, now_us)

    assert refused.value.reason == "JOINED_TOO_LARGE"


def test_the_work_of_transforms_is_bounded(plan_of: PlanOf, request_of: RequestOf) -> None:
    """Hashing takes about a microsecond a value: [10000, 512] of them would hold the loop for seconds; [200, 512] may."""
    plan = plan_of({}, HASHED, max_entities=10_000, **TOKENS)

    assert plan.read(request_of({"tokens": np.zeros((100, 512), np.int64)})) is not None
    with pytest.raises(ResourceExhausted, match=r'model "m": 10000 rows: .* of transforms') as refused:
        plan.read(request_of({"tokens": np.zeros((10_000, 512), np.int64)}))

    assert refused.value.reason == "TOO_MUCH_WORK"
    assert not refused.value.rejected


def test_ten_thousand_rows_of_the_usual_transforms_are_not_too_many(plan_of: PlanOf, request_of: RequestOf) -> None:
    """A service with ten hashed texts and ten scaled numbers serves what `max_entities` allows."""
    columns = [{"column": "request.w", "transform": [{"hash": 1000 + n}]} for n in range(10)]
    columns += [{"column": "request.a", "transform": ["log1p", {"clip": [0, n]}]} for n in range(1, 11)]
    inputs = {"x": {"columns": columns, "datatype": "FP64"}}
    plan = plan_of({}, inputs, request={"w": "BYTES", "a": "FP32"}, max_entities=10_000)

    assert plan.read(request_of({"w": [b"x"] * 10_000, "a": np.zeros(10_000, np.float32)})) is not None


class Held(FeatureStore):
    """A store that has one row for all."""

    def __init__(self, row: bytes) -> None:
        self.row = row

    async def lookup(self, keys: Any, deadline: Any) -> list[bytes | None]:
        return [self.row for _ in keys]


async def test_a_caller_hears_which_model_it_was(
    plan_of: PlanOf, recorder: Callable[..., Any], request_of: RequestOf, now_us: int
) -> None:
    """What is found out after the lookup is RESOURCE_EXHAUSTED with the model's name, and the model is not asked to infer."""
    model, held = recorder(), RowFormat([("t", "BYTES")]).pack([b"x" * 2**20], now_us)
    join = JoinFeatures({"m": plan_of({"c": NOTE}, {"x": {"feature": "c.t"}})}, Held(held), model)

    with pytest.raises(ResourceExhausted, match='model "m": 65 rows'):
        await join(request_of({"id": [b"c"] * 65}), Call(), model.infer)

    assert not any(isinstance(each, pb.ModelInferRequest) for each in model.requests)
