"""Checking the feature file against models that come when they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from infermesh.errors import Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from services.transformer.backends import Backends
from services.transformer.check_models import check_models, watch_models
from services.transformer.config import RoutingConfig
from services.transformer.plan import JoinPlan


def described(width: int) -> pb.ModelMetadataResponse:
    tensor = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, width])
    return pb.ModelMetadataResponse(inputs=[tensor])


@pytest.fixture
def plans(plan_of: Callable[..., JoinPlan], card: dict[str, Any]) -> dict[str, JoinPlan]:
    return {"m": plan_of({"card": card}, {"x": {"columns": ["card.*"]}})}


async def test_a_model_of_another_width_is_told_once(
    plans: dict[str, JoinPlan], recorder: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A width that does not fit raises the gauge and one warning, not one a minute; a model that fits lowers it again."""
    model, told, known = recorder(error=Unavailable("away")), [], {}
    backends = Backends({"predictor": model, "explainer": model}, RoutingConfig(), plans)

    async def check() -> None:
        await check_models(plans, backends, lambda name, faults: told.append((name, faults)), known)

    with caplog.at_level(logging.WARNING):
        await check()
        model.error, model.described = None, described(3)
        await check()
        await check()
        model.described = described(2)
        await check()

    assert told == [("m", 1), ("m", 1), ("m", 0)]
    assert [record.fault for record in caplog.records] == [
        'input "x": the model takes [-1, 3], the feature file makes [-1, 2]'
    ]


async def test_the_watch_survives_what_nobody_expected(
    plans: dict[str, JoinPlan],
    recorder: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error that is none of ours is logged, and the models are checked again."""
    monkeypatch.setattr("services.transformer.check_models.FIRST_S", 0.001)
    model = recorder(error=RuntimeError("the handler is closed"), described=described(2))
    backends = Backends({"predictor": model, "explainer": model}, RoutingConfig(), plans)
    told: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()

    watching = asyncio.ensure_future(watch_models(plans, backends, lambda *result: told.set_result(result)))
    async with asyncio.timeout(5):
        while "checking the models failed" not in caplog.messages:
            await asyncio.sleep(0.001)
    model.error = None

    assert await asyncio.wait_for(told, 5) == ("m", 0)
    watching.cancel()
    await asyncio.wait({watching})


async def test_a_model_that_comes_later_is_checked_later(
    plans: dict[str, JoinPlan], recorder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that is away at the start is asked again until it answers."""
    monkeypatch.setattr("services.transformer.check_models.FIRST_S", 0.001)
    model = recorder(error=Unavailable("away"))
    backends = Backends({"predictor": model, "explainer": model}, RoutingConfig(), plans)
    told: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()

    watching = asyncio.ensure_future(watch_models(plans, backends, lambda *result: told.set_result(result)))
    await asyncio.sleep(0.005)
    model.error, model.described = None, described(2)

    assert await asyncio.wait_for(told, 5) == ("m", 0)
    watching.cancel()
    await asyncio.wait({watching})
