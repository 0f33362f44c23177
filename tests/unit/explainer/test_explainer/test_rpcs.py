"""Metadata, readiness, repository and statistics of the explainer."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import (
    InvalidRequest,
    NotFound,
    Unavailable,
    Unimplemented,
)
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import stack
from tests.unit.explainer.explained_rows import OUTPUTS, ROWS


async def test_metadata_tells_inputs_outputs_and_choices(service: Any) -> None:
    """The model's inputs and versions, the explainer's outputs, and what the parameters may be."""
    metadata = await service.metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())

    assert metadata.name == "model-explainer"
    assert list(metadata.versions) == ["1", "2"]
    assert metadata.platform == "infermesh_explainer"
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [("x", "FP64", [-1, 3])]
    assert {o.name: (o.datatype, list(o.shape)) for o in metadata.outputs} == {
        "attributions": ("FP64", [-1, 3, -1]),
        "base_values": ("FP64", [-1, -1]),
        "predictions": ("FP64", [-1, -1]),
        "std_error": ("FP64", [-1, 3, -1]),
        "additivity_error": ("FP64", [-1, -1]),
        "feature_names": ("BYTES", [3]),
        "output_names": ("BYTES", [-1]),
    }
    told = dict(metadata.properties)
    assert json.loads(told["infermesh.methods"]) == [
        "auto",
        "exact",
        "permutation",
        "kernel",
        "linear",
        "tree",
    ]
    assert json.loads(told["infermesh.links"]) == ["identity", "logit"]
    assert json.loads(told["infermesh.features"]) == ["a", "b", "c"]
    assert json.loads(told["infermesh.backgrounds"]) == ["default", "zeros"]
    assert json.loads(told["infermesh.classes"]) == ["total"]
    assert told["infermesh.model"] == "model"
    assert told["infermesh.output"] == "y"
    assert (told["infermesh.background"], told["infermesh.background.rows"]) == ("default", "1")
    assert "infermesh.refused" not in told


async def test_metadata_of_a_model_that_can_not_be_explained_say_why(lab: SimpleNamespace) -> None:
    """They are answered all the same."""
    model = lab.FunctionModel(lambda given: {}, outputs=[("label", "INT64", (-1,))])
    metadata = await lab.explainer(model).metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())
    assert "none of its outputs is a floating one" in metadata.properties["infermesh.refused"]

    bare = lab.explainer(lab.FunctionModel(lambda given: {}), None)
    metadata = await bare.metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())
    assert "it has no background rows" in metadata.properties["infermesh.refused"]


async def test_metadata_of_a_model_of_any_width_leave_the_number_of_features_open(lab: SimpleNamespace) -> None:
    """-1 where the request decides."""
    model = lab.FunctionModel(lambda given: {}, [("x", "FP64", (-1, -1))])

    metadata = await lab.explainer(model).metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())

    assert list(metadata.outputs[0].shape) == [-1, -1, -1]


async def test_metadata_of_a_model_of_too_many_features_do_not_name_them(lab: SimpleNamespace) -> None:
    """Its shapes are told, and that it can't be explained; an image's 150,528 names are nobody's use."""
    model = lab.FunctionModel(lambda given: {}, [("image", "FP32", (-1, 3, 224, 224))])
    service = lab.explainer(model)

    metadata = await service.metadata(pb.ModelMetadataRequest(name="model-explainer"), Call())

    assert list(metadata.outputs[0].shape) == [-1, 150_528, -1]
    assert "expected 1 to 1024 features to tell apart" in metadata.properties["infermesh.refused"]
    assert "infermesh.features" not in metadata.properties
    assert metadata.ByteSize() < 2000


@pytest.mark.parametrize("rpc", ["metadata", "ready", "config", "statistics"])
async def test_names_of_no_explainer_are_not_found_in_every_rpc(service: Any, rpc: str) -> None:
    """The name is quoted."""
    asked = {
        "metadata": lambda: service.metadata(pb.ModelMetadataRequest(name="model"), Call()),
        "ready": lambda: service.ready("model"),
        "config": lambda: service.config(pb.ModelConfigRequest(name="model"), Call()),
        "statistics": lambda: service.statistics(pb.ModelStatisticsRequest(name="model"), Call()),
    }

    with pytest.raises(NotFound, match='model "model": no such model'):
        await asked[rpc]()


async def test_readiness_is_its_own_and_a_models_is_the_backends(
    lab: SimpleNamespace, service: Any, model: Any
) -> None:
    """Ready without a model whatever the backend does; with one as the backend says, errors and all."""
    assert await service.ready()
    assert await service.ready("model-explainer")
    with pytest.raises(NotFound):
        await service.ready("model-explainer", "9")

    async def away(model: str = "", version: str = "") -> bool:
        return False

    model.ready = away
    assert await service.ready()
    assert not await service.ready("model-explainer")


async def test_the_index_is_the_backends_with_explainers_names(service: Any, model: Any) -> None:
    """States and reasons stay; the wish for ready ones only is passed on."""
    asked = []

    async def index(request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        asked.append(request.ready)
        response = pb.RepositoryIndexResponse()
        response.models.add(name="model", version="1", state="UNAVAILABLE", reason="no file")
        return response

    model.index = index
    (one,) = (await service.index(pb.RepositoryIndexRequest(ready=True), Call())).models

    assert (one.name, one.version, one.state, one.reason) == ("model-explainer", "1", "UNAVAILABLE", "no file")
    assert asked == [True]


async def test_the_configuration_is_the_models_with_the_explainers_name_and_outputs(service: Any, model: Any) -> None:
    """Inputs as the model has them, no batch dimension to add, and the seven outputs of an explanation."""

    async def config(request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        assert request.name == "model"
        inputs = [pb.ModelInput(name="x", data_type=pb.TYPE_FP64, dims=[-1, 3])]
        return pb.ModelConfigResponse(config=pb.ModelConfig(name="model", input=inputs))

    model.config = config

    told = (await service.config(pb.ModelConfigRequest(name="model-explainer"), Call())).config
    assert told.name == "model-explainer"
    assert told.max_batch_size == 0
    assert [(i.name, i.data_type, list(i.dims)) for i in told.input] == [("x", pb.TYPE_FP64, [-1, 3])]
    assert [o.name for o in told.output] == list(OUTPUTS)
    assert {o.name: o.data_type for o in told.output}["feature_names"] == pb.TYPE_STRING


async def test_statistics_count_explanations_and_not_what_the_model_did_for_them(
    lab: SimpleNamespace, service: Any, model: Any
) -> None:
    """Those that succeeded with their rows, and those that failed, for each version that the backend has."""

    async def statistics(request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        assert request.name in ("model", "")
        had = [pb.ModelStatistics(name="model", version=version, inference_count=7) for version in ("2", "1")]
        return pb.ModelStatisticsResponse(model_stats=had)

    model.statistics = statistics
    for _ in range(3):
        await service.infer(lab.request_of({"x": np.ones((2, 3))}), Call())
    with pytest.raises(InvalidRequest):
        await service.infer(lab.request_of(ROWS, method="guess"), Call())

    for name in ("model-explainer", ""):
        told, other = (await service.statistics(pb.ModelStatisticsRequest(name=name), Call())).model_stats
        assert (told.name, told.version) == ("model-explainer", "2")
        assert (told.inference_count, told.execution_count) == (6, 3)
        assert (told.inference_stats.success.count, told.inference_stats.fail.count) == (3, 1)
        assert 0 < told.inference_stats.compute_infer.ns <= told.inference_stats.success.ns
        assert told.last_inference > 0
        assert (other.version, other.inference_count, other.last_inference) == ("1", 0, 0)


async def test_loading_and_unloading_are_not_offered(service: Any) -> None:
    """With a sentence that says where to do it."""
    with pytest.raises(Unimplemented, match='holds no models; load "model" where it is served'):
        await service.load(pb.RepositoryModelLoadRequest(model_name="model-explainer"), Call())
    with pytest.raises(Unimplemented, match='holds no models; unload "model" where it is served'):
        await service.unload(pb.RepositoryModelUnloadRequest(model_name="model-explainer"), Call())


async def test_a_backend_without_a_repository_has_no_index(lab: SimpleNamespace) -> None:
    """A service that only infers can be explained too."""

    class Bare:
        def __init__(self, inner: Any) -> None:
            self.infer, self.metadata, self.ready = inner.infer, inner.metadata, inner.ready

    inner = lab.FunctionModel(lambda given: {"y": given["x"].sum(axis=1, keepdims=True)})
    service = lab.explainer(Bare(inner), {"x": np.zeros((1, 3))})

    assert len((await service.infer(lab.request_of(ROWS), Call())).outputs) == 7
    with pytest.raises(Unimplemented):
        await service.index(pb.RepositoryIndexRequest(), Call())


async def test_only_models_that_the_backend_knows_become_labels(lab: SimpleNamespace, service: Any) -> None:
    """What a caller made up is counted under the empty label."""
    assert service.label("model-explainer") == ""
    await service.infer(lab.request_of(ROWS), Call())
    with pytest.raises(NotFound):
        await service.infer(lab.request_of(ROWS, model="other"), Call())

    assert service.label("model-explainer") == "model-explainer"
    assert service.label("other-explainer") == ""
    assert service.label("model") == ""


async def test_a_backend_that_is_away_is_unavailable(lab: SimpleNamespace, model: Any) -> None:
    """From the first question on, with the backend's own words."""

    async def metadata(request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        raise Unavailable("predictor: connection refused", hop="predictor")

    model.metadata = metadata
    service = stack(service=lab.explainer(model, {"x": np.zeros((1, 3))}))

    with pytest.raises(Unavailable, match="connection refused") as away:
        await service.infer(lab.request_of(ROWS), Call())
    assert away.value.hop == "predictor"
