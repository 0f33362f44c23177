"""Explanations give way to predictions."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb


@pytest.mark.parametrize(("priority", "waits"), [(16, False), (1, True)])
async def test_a_prediction_overtakes_the_questions_of_an_explanation(
    lab: SimpleNamespace, served: SimpleNamespace, priority: int, waits: bool
) -> None:
    """On one instance, with four questions of an explanation there: a prediction that comes then is answered after the one that
    runs, and one that may have ended just now. Were the questions of the highest priority, it would wait for all four."""
    one = {
        "INFERMESH_PREDICTOR__EXECUTION__INSTANCES": "1",
        "INFERMESH_PREDICTOR__EXECUTION__INLINE_BELOW": "0s",
        "INFERMESH_PREDICTOR__EXECUTION__SLICE_ROWS": "0",  # questions that take turns end together
    }
    service = await served.explainer(None, one, asking={"priority": priority, "in_flight_each": 4, "max_rows": 4096})
    rows = {name: np.repeat(array[:1], 50, axis=0) for name, array in served.golden("fraud-detector", "2").items()}
    rows["amount"] = rows["amount"] * np.linspace(0.5, 2, 50, dtype=np.float32)[:, None]
    predictor, four = served.predictor, asyncio.Event()
    predictor.on_infer = lambda: four.set() if predictor.under_way == 4 else None
    request = lab.request_of(rows, model="fraud-detector", method="permutation", max_evals=100_000, priority=1)
    request.model_version = "2"

    work = asyncio.create_task(service.infer(request, Call()))
    async with asyncio.timeout(60):
        while predictor.under_way < 4:  # the event is set while the fourth is on its way; then they are in the queue
            four.clear()
            await four.wait()
            await asyncio.sleep(0)
        before = len(predictor.ended)
        prediction = lab.request_of(served.golden("fraud-detector", "2"), model="fraud-detector")
        prediction.model_name, prediction.model_version, prediction.id = "fraud-detector", "2", "prediction"
        await predictor.infer(prediction, Call())
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)

    overtaken_by = predictor.ended[before:].index("prediction")
    assert overtaken_by >= 4 if waits else overtaken_by <= 2


async def test_every_question_says_so_whatever_the_caller_wishes(lab: SimpleNamespace) -> None:
    """The last level of any predictor; the caller's own wish is about this explanation, and not about what it asks."""
    model = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})

    await lab.explain(model, {"x": np.zeros((2, 3))}, {"x": np.ones((1, 3))}, priority=1, flavour="salt")

    for request in model.requests:
        assert request.parameters["priority"] == pb.InferParameter(uint64_param=16)
        assert request.parameters["flavour"].string_param == "salt"
