"""Which backend answers for which model, and what the transformer says of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from infermesh.call import Call
from infermesh.errors import InvalidRequest, NotFound, Unavailable, Unimplemented
from infermesh.protocol import open_inference_pb2 as pb
from services.transformer.backends import Backends
from services.transformer.config import RoutingConfig
from services.transformer.describe import faults_of
from services.transformer.plan import JoinPlan

CALL = Call()
ROUTING = RoutingConfig.model_validate(
    {
        "routes": [
            {"model": "m", "variant": "candidate", "backend": "candidate"},
            {"model": "far-*", "backend": "candidate"},
        ]
    }
)
Tensor = pb.ModelMetadataResponse.TensorMetadata
Index = pb.RepositoryIndexResponse


@pytest.fixture
def named(recorder: Callable[..., Any]) -> dict[str, Any]:
    return {name: recorder() for name in ("predictor", "explainer", "candidate")}


@pytest.fixture
def plan(plan_of: Callable[..., JoinPlan], card: dict[str, Any]) -> JoinPlan:
    return plan_of({"card": card}, {"x": {"columns": ["card.*"]}, "amount": {"request": "sum"}})


@pytest.fixture
def backends(named: dict[str, Any], plan: JoinPlan) -> Backends:
    return Backends(named, ROUTING, {"m": plan})


@pytest.mark.parametrize(
    ("model", "variant", "backend"),
    [
        ("m", "", "predictor"),
        ("m", "stable", "predictor"),
        ("m", "candidate", "candidate"),
        ("m-explainer", "candidate", "explainer"),
        ("other", "candidate", "predictor"),
        ("far-away", "", "candidate"),
        ("far-away-explainer", "", "candidate"),
        ("-explainer", "", "predictor"),
    ],
)
async def test_a_call_goes_to_its_backend(
    backends: Backends, named: dict[str, Any], model: str, variant: str, backend: str
) -> None:
    """A route that fits comes first, then explainers go to the explainer and all else to the predictor."""
    call, request = Call(variant=variant), pb.ModelInferRequest(model_name=model)

    await backends.infer(request, call)
    await backends.metadata(pb.ModelMetadataRequest(name=model), call)
    await backends.config(pb.ModelConfigRequest(name=model), call)
    await backends.statistics(pb.ModelStatisticsRequest(name=model), call)

    assert len(named[backend].requests) == 4
    assert named[backend].requests[0] is request
    assert sum(len(each.requests) for each in named.values()) == 4


async def test_a_stream_goes_to_its_backend(backends: Backends, named: dict[str, Any]) -> None:
    """A stream's request takes the way of any other."""
    answers = [a async for a in backends.stream(pb.ModelInferRequest(model_name="m-explainer", id="3"), CALL)]

    assert [a.id for a in answers] == ["3"]
    assert len(named["explainer"].requests) == 1


async def test_no_model_name_is_refused(backends: Backends) -> None:
    """An empty name is INVALID_ARGUMENT, not some backend's model."""
    with pytest.raises(InvalidRequest, match="model name"):
        await backends.infer(pb.ModelInferRequest(), CALL)


async def test_metadata_says_what_a_client_sends(backends: Backends, named: dict[str, Any]) -> None:
    """The ids stand first, in the place of what is looked up; renamed inputs have the request's name; the rest is the model's."""
    named["predictor"].described = pb.ModelMetadataResponse(
        name="m",
        versions=["1", "2"],
        platform="onnx",
        inputs=[
            Tensor(name="amount", datatype="FP32", shape=[-1, 1]),
            Tensor(name="x", datatype="FP32", shape=[-1, 2]),
            Tensor(name="country", datatype="BYTES", shape=[-1, 1]),
        ],
        outputs=[Tensor(name="label", datatype="INT64", shape=[-1])],
        properties={"infermesh.columns.x": '["limit", "declines"]'},
    )

    seen = await backends.metadata(pb.ModelMetadataRequest(name="m"), CALL)

    assert [(t.name, t.datatype, list(t.shape)) for t in seen.inputs] == [
        ("card_id", "BYTES", [-1, 1]),
        ("sum", "FP32", [-1, 1]),
        ("country", "BYTES", [-1, 1]),
    ]
    model = named["predictor"].described
    assert (seen.name, seen.versions, seen.platform) == (model.name, model.versions, model.platform)
    assert (seen.outputs, seen.properties) == (model.outputs, model.properties)


async def test_readiness_of_a_model_is_the_backends(backends: Backends, named: dict[str, Any]) -> None:
    """The transformer itself is ready whatever is behind it; a model is ready when its backend says so."""
    for each in named.values():
        each.error = Unavailable("away")

    assert await backends.ready()
    with pytest.raises(Unavailable):
        await backends.ready("m")


async def test_a_model_is_ready_where_one_variant_is(backends: Backends, named: dict[str, Any]) -> None:
    """A version that only the backend of a variant has is ready; it is NOT_FOUND when no backend that may answer has it."""
    named["predictor"].error = NotFound("no version 2")
    assert await backends.ready("m", "2")

    named["candidate"].error = Unavailable("away")
    with pytest.raises(Unavailable, match="away"):
        await backends.ready("m", "2")
    named["candidate"].error = NotFound("no version 2")
    with pytest.raises(NotFound, match="no version 2"):
        await backends.ready("m", "2")


async def test_a_model_that_one_backend_has_and_is_not_ready_is_not_missing(
    backends: Backends, named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One backend that has the model, though not ready, is enough for an answer that is no error."""

    async def not_ready(model: str, version: str) -> bool:
        return False

    named["predictor"].error = NotFound("no version 2")
    monkeypatch.setattr(named["candidate"], "ready", not_ready)

    assert await backends.ready("m", "2") is False


async def test_an_index_is_merged(backends: Backends, named: dict[str, Any]) -> None:
    """A model version that several backends hold is listed once, as ready if one of them has it ready."""
    entry = Index.ModelIndex
    named["predictor"].indexed = Index(
        models=[entry(name="m", version="1", state="UNAVAILABLE"), entry(name="n", version="1", state="READY")]
    )
    named["candidate"].indexed = Index(
        models=[entry(name="m", version="1", state="READY"), entry(name="n", version="1", state="UNAVAILABLE")]
    )
    named["explainer"].error = Unimplemented("no repository")

    index = await backends.index(pb.RepositoryIndexRequest(ready=True), CALL)

    assert [(e.name, e.version, e.state) for e in index.models] == [("m", "1", "READY"), ("n", "1", "READY")]
    assert named["predictor"].requests == [pb.RepositoryIndexRequest(ready=True)]


async def test_an_index_that_nobody_has_is_an_error(backends: Backends, named: dict[str, Any]) -> None:
    """When no backend answers, the one that is away is named, not one that has no repository."""
    named["predictor"].error = named["candidate"].error = Unavailable("predictor: away")
    named["explainer"].error = Unimplemented("no repository")

    with pytest.raises(Unavailable, match="predictor: away"):
        await backends.index(pb.RepositoryIndexRequest(), CALL)


async def test_loading_reaches_every_backend_of_a_model(backends: Backends, named: dict[str, Any]) -> None:
    """A model of which a variant lives elsewhere is loaded and unloaded in both places, another one in its own alone."""
    await backends.load(pb.RepositoryModelLoadRequest(model_name="m"), CALL)
    await backends.unload(pb.RepositoryModelUnloadRequest(model_name="m"), CALL)
    await backends.load(pb.RepositoryModelLoadRequest(model_name="n"), CALL)

    assert [len(named[name].requests) for name in ("predictor", "candidate", "explainer")] == [3, 2, 0]


async def test_a_model_need_not_be_everywhere(backends: Backends, named: dict[str, Any]) -> None:
    """Loading succeeds when one of its backends has the model, and fails when none has or one is away."""
    request = pb.RepositoryModelLoadRequest(model_name="m")
    named["candidate"].error = NotFound("not in the repository")
    await backends.load(request, CALL)

    named["predictor"].error = NotFound("not in the repository")
    with pytest.raises(NotFound):
        await backends.load(request, CALL)
    named["predictor"].error, named["candidate"].error = None, Unavailable("away")
    with pytest.raises(Unavailable):
        await backends.load(request, CALL)


async def test_a_backend_with_two_names_is_asked_once(named: dict[str, Any]) -> None:
    """Where candidate and predictor are one address, statistics and index are not counted twice."""
    backends = Backends(named, ROUTING, {}, same_as=lambda name: "there" if name == "explainer" else "here")

    statistics = await backends.statistics(pb.ModelStatisticsRequest(), CALL)

    assert len(statistics.model_stats) == 2


async def test_a_label_is_a_name_that_exists(backends: Backends, named: dict[str, Any]) -> None:
    """A name becomes a label of metrics when it is configured or has answered, never because a caller sent it."""
    assert (backends.label("m"), backends.label("iris"), backends.label("nonsense")) == ("m", "", "")

    await backends.infer(pb.ModelInferRequest(model_name="iris"), CALL)
    named["predictor"].error = NotFound("no such model")
    with pytest.raises(NotFound):
        await backends.infer(pb.ModelInferRequest(model_name="nonsense"), CALL)

    assert (backends.label("iris"), backends.label("nonsense")) == ("iris", "")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([("x", "FP32", [-1, 2]), ("amount", "FP32", [-1, 1])], []),
        ([("x", "FP32", [-1, -1]), ("amount", "FP32", [-1, 1])], []),
        (
            [("x", "FP32", [-1, 3]), ("amount", "FP32", [-1, 1])],
            ['input "x": the model takes [-1, 3], the feature file makes [-1, 2]'],
        ),
        (
            [("x", "FP64", [-1]), ("amount", "FP32", [-1, 1])],
            [
                'input "x": the model takes FP64, the feature file makes FP32',
                'input "x": the model takes [-1], the feature file makes [-1, 2]',
            ],
        ),
        ([("y", "FP32", [-1, 2])], [f'input "{name}": the model has none of this name' for name in ("x", "amount")]),
    ],
)
def test_a_plan_is_compared_with_the_model(plan: JoinPlan, inputs: Any, expected: list[str]) -> None:
    """Names, datatypes and widths in which the feature file and the model disagree are each named."""
    tensors = [Tensor(name=name, datatype=datatype, shape=shape) for name, datatype, shape in inputs]

    assert faults_of(pb.ModelMetadataResponse(inputs=tensors), plan) == expected
