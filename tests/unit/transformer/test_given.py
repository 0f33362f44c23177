"""Requests that bring the looked-up inputs themselves, in the place of ids: who may, and what is said and counted of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call, Caller
from infermesh.config import ConfigError
from infermesh.errors import InvalidRequest, MeshError, PermissionDenied, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from services.transformer.join_features import JoinFeatures
from services.transformer.metrics import FeatureMetrics
from services.transformer.plan import JoinPlan
from services.transformer.store import FeatureStore
from services.transformer.views import FeatureFile

RequestOf = Callable[..., pb.ModelInferRequest]
Ask = Callable[..., Awaitable[pb.ModelInferResponse]]
INPUTS = {"x": {"columns": ["card.*"]}}


class NoStore(FeatureStore):
    """A store that nobody may ask."""

    def __init__(self) -> None:
        pass


@pytest.fixture
def model(recorder: Callable[..., Any]) -> Any:
    return recorder()


@pytest.fixture
def ask(
    file_of: Callable[..., FeatureFile],
    strict_card: dict[str, Any],
    model: Any,
    request_of: RequestOf,
    feature_metrics: FeatureMetrics,
) -> Ask:
    """Asks with two rows of the looked-up input itself, for a service with these settings whose view says fail."""

    async def ask(*, tenant: str = "", **service: Any) -> pb.ModelInferResponse:
        file = file_of({"card": strict_card}, INPUTS, **service)
        plan = JoinPlan(file, file.services["m"], prefix="p", max_entities=9, tally=feature_metrics.tally)
        join = JoinFeatures({"m": plan}, NoStore(), model)
        request = request_of({"x": np.full((2, 2), 999, np.float32)})
        return await join(request, Call(caller=Caller(tenant=tenant)), model.infer)

    return ask


@pytest.mark.parametrize("overrides", ["off", "on", ["quality"]])
async def test_inputs_that_were_given_are_told_and_counted(
    ask: Ask, model: Any, counted: Callable[..., float], overrides: Any
) -> None:
    """By default a caller may; the answer says `given`, and the values count as overridden: no stored one was served."""
    response = await ask(overrides=overrides, tenant="quality")

    assert response.parameters["infermesh_features"].string_param == "given"
    assert counted("infermesh_transformer_feature_values_total", view="card", status="overridden") == 4
    assert [tensor.name for tensor in model.requests[0].inputs] == ["x"]


async def test_a_service_may_refuse_given_inputs(ask: Ask, counted: Callable[..., float]) -> None:
    """With `given: refuse` what a policy guards can't be sent past it, and nothing is counted as served."""
    with pytest.raises(InvalidRequest, match=r'input "x": is looked up .*\(given: refuse\); send "card_id"') as refused:
        await ask(given="refuse", overrides="on")

    assert refused.value.reason == "FEATURE_GIVEN"
    assert counted("infermesh_transformer_feature_values_total", view="card", status="overridden") == 0


@pytest.mark.parametrize("tenant", ["", "shop"])
async def test_where_tenants_are_listed_they_alone_give_inputs(ask: Ask, model: Any, tenant: str) -> None:
    """Who may not override one feature may not send all of them at once: the list of `overrides` holds for both."""
    with pytest.raises(PermissionDenied, match=f'input "x": .*the tenant "{tenant}"') as refused:
        await ask(overrides=["quality"], tenant=tenant)

    assert refused.value.reason == "FEATURE_GIVEN"
    assert all(isinstance(each, pb.ModelMetadataRequest) for each in model.requests)


async def test_what_the_model_refused_is_not_counted(ask: Ask, model: Any, counted: Callable[..., float]) -> None:
    """Only answers count: the rows that a shape claims are believed when the model has read them."""
    model.error = Unavailable("away")

    with pytest.raises(MeshError, match="away"):
        await ask()

    assert counted("infermesh_transformer_feature_values_total", view="card", status="overridden") == 0


def test_another_word_is_refused(file_of: Callable[..., FeatureFile], card: dict[str, Any]) -> None:
    """The setting has two words."""
    with pytest.raises((ConfigError, ValueError), match="'allow' or 'refuse'"):
        file_of({"card": card}, INPUTS, given="on")
