"""Another version comes while an explanation waits for its turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import InvalidRequest
from infermesh.protocol import open_inference_pb2 as pb

BACKGROUND = {"x": np.random.default_rng(0).normal(size=(8, 3))}
ROW = {"x": np.array([[1.0, 2.0, 3.0]])}


@pytest.fixture
def grouped(lab: SimpleNamespace) -> Any:
    """x0 · x1 + 2 x2; `properties_of[version]` are what its metadata say of each version."""

    class Grouped(lab.FunctionModel):  # type: ignore[name-defined,misc]
        properties_of: Mapping[str, Mapping[str, Any]]

        async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
            told: pb.ModelMetadataResponse = await super().metadata(request, call)
            for name, value in self.properties_of[request.version or self.versions[-1]].items():
                told.properties[name] = json.dumps(value)
            return told

    return Grouped(lambda given: {"y": given["x"][:, :1] * given["x"][:, 1:2] + 2 * given["x"][:, 2:3]})


async def overtaken(service: Any, model: Any, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """The answer to a request whose turn comes when version 2 is there."""
    model.hold = asyncio.Event()
    first = asyncio.create_task(service.infer(request, Call()))
    second = asyncio.create_task(service.infer(request, Call()))
    async with asyncio.timeout(30):
        while model.described < 2 or not model.in_flight:  # both have read version 1, and the first asks
            await asyncio.sleep(0)
        model.versions = ["1", "2"]
        model.hold.set()
        await asyncio.gather(first, return_exceptions=True)
        return await second


@pytest.mark.parametrize("method", ["exact", "permutation", "kernel"])
@pytest.mark.parametrize(
    ("before", "groups"),
    [
        pytest.param({"f": [0, 1]}, {"g": [1, 2]}, id="other ones, as many"),
        pytest.param({"f": [0, 1]}, {}, id="more features"),
        pytest.param({}, {"g": [1, 2]}, id="fewer"),
    ],
)
async def test_the_groups_are_those_of_the_version_that_answers(
    lab: SimpleNamespace, grouped: Any, before: Any, groups: Any, method: str
) -> None:
    """Coalitions, names and attributions alike: what is told of version 2 is what a request after it came is told."""
    grouped.properties_of = {"1": {"infermesh.groups": before}, "2": {"infermesh.groups": groups}}
    service = lab.explainer(grouped, BACKGROUND, limits={"concurrent": 1})
    request = lab.request_of(ROW, method=method)

    answer = lab.Explained(await overtaken(service, grouped, request))

    truth = lab.Explained(await service.infer(request, Call()))
    assert answer.response.model_version == truth.response.model_version == "2"
    assert answer.feature_names.tolist() == truth.feature_names.tolist()
    assert answer.attributions == pytest.approx(truth.attributions, abs=1e-12)


async def test_groups_by_name_are_those_of_the_columns_of_the_version_that_answers(
    lab: SimpleNamespace, grouped: Any
) -> None:
    """Version 2 has the same columns under other names: the group is about another one of them."""
    grouped.properties_of = {
        "1": {"infermesh.columns.x": ["a", "b", "c"]},
        "2": {"infermesh.columns.x": ["c", "a", "b"]},
    }
    service = lab.explainer(grouped, BACKGROUND, limits={"concurrent": 1})
    request = lab.request_of(ROW, method="exact", groups='{"g": ["a", "b"]}')

    answer = lab.Explained(await overtaken(service, grouped, request))

    truth = lab.Explained(await service.infer(request, Call()))
    assert answer.feature_names.tolist() == truth.feature_names.tolist() == [b"c", b"g"]
    assert answer.attributions == pytest.approx(truth.attributions, abs=1e-12)


async def test_a_method_that_is_not_for_the_features_of_that_version_is_refused(
    lab: SimpleNamespace, grouped: Any
) -> None:
    """As it would be had the version been there before."""
    grouped.properties_of = {"1": {"infermesh.groups": {"f": [0, 1]}}, "2": {}}
    service = lab.explainer(grouped, BACKGROUND, limits={"concurrent": 1}, methods={"exact_features": 2})

    with pytest.raises(InvalidRequest, match='"kernel" or "permutation" for 3 features'):
        await overtaken(service, grouped, lab.request_of(ROW, method="exact"))
