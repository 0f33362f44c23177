"""Outputs that a caller names, streams, metadata, and the place of the steps among backends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.errors import Internal, InvalidRequest, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import stack
from infermesh.tensors import add_inputs, read_outputs
from services.transformer.after.after_model import AfterModel
from services.transformer.backends import Backends
from services.transformer.check_models import check_models
from services.transformer.config import RoutingConfig
from services.transformer.describe import faults_of
from services.transformer.join_features import JoinFeatures
from services.transformer.plan import JoinPlan
from services.transformer.views import FeatureFile

CALL = Call()
NAMES = ["genuine", "fraud"]
DECIDE: dict[str, Any] = {
    "threshold": {"of": "p", "column": 1, "at": [0.2, 0.8], "decisions": ["approve", "review", "decline"]}
}
STEPS: list[dict[str, Any]] = [
    {"rename": {"probabilities": "p"}},
    DECIDE,
    {"classes": {"of": "label", "names": NAMES}},
    {"drop": ["embedding"]},
]


@pytest.fixture
def outputs(scores: Any) -> dict[str, Any]:
    return {"label": np.array([0, 0, 1]), "probabilities": scores, "embedding": np.zeros((3, 4), np.float32)}


@pytest.fixture
def backends_of(after_of: Callable[..., AfterModel]) -> Callable[..., Backends]:
    """Backends with one model, the steps after `m`, and its plan without inputs."""

    def make(model: Any, *steps: dict[str, Any]) -> Backends:
        file = FeatureFile.model_validate({"services": {"m": {"inputs": {}, "after": list(steps)}}})
        plan = JoinPlan(file, file.services["m"], prefix="p", max_entities=10)
        plans = {"m": plan, "m-explainer": plan}
        return Backends({"predictor": model, "explainer": model}, RoutingConfig(), plans, after={"m": after_of(*steps)})

    return make


def asking(*names: str, model: str = "m", **fields: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=model, outputs=[{"name": name} for name in names], **fields)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        (["decision"], ["probabilities"]),
        (["decision", "p", "decision"], ["probabilities"]),
        (["label", "decision"], ["label", "probabilities"]),
        (["p"], ["probabilities"]),
        (["label"], ["label"]),
        ([], []),
    ],
)
async def test_the_model_is_asked_for_what_the_steps_need(
    after_of: Any, model_of: Any, outputs: Any, raw: bool, wanted: list[str], asked: list[str]
) -> None:
    """And the caller gets what he named, in his order, once each; without a name, all that there is after the steps."""
    model = model_of(outputs, raw=raw)
    request = asking(*wanted, id="7")
    before = request.SerializeToString(deterministic=True)

    response = await after_of(*STEPS).infer(model, request, CALL)

    assert [output.name for output in model.requests[0].outputs] == asked
    assert list(read_outputs(response)) == (list(dict.fromkeys(wanted)) or ["label", "p", "decision"])
    assert bool(response.raw_output_contents) is raw
    assert request.SerializeToString(deterministic=True) == before
    assert (response.id, response.model_version, response.parameters["said"].string_param) == ("7", "1", "by the model")


async def test_what_a_caller_says_of_an_output_reaches_the_model(after_of: Any, model_of: Any, outputs: Any) -> None:
    """Parameters of a requested output that is passed on, and the request's tensors, as they were."""
    model = model_of(outputs)
    request = asking("decision", "label")
    request.outputs[1].parameters["classification"].int64_param = 2
    add_inputs(request, {"x": np.ones(3)})

    await after_of(*STEPS).infer(model, request, CALL)

    (seen,) = model.requests
    assert seen.outputs[0] == request.outputs[1]
    assert (seen.inputs, seen.raw_input_contents) == (request.inputs, request.raw_input_contents)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("embedding", 'output "embedding": after.3.drop took it away; there are .*decision'),
        ("probabilities", 'output "probabilities": after.0.rename took it away'),
        ("nonsense", 'output "nonsense": expected one of label, probabilities, embedding'),
    ],
)
async def test_an_output_that_nobody_has(after_of: Any, model_of: Any, outputs: Any, wanted: str, words: str) -> None:
    """Gone by the steps, or unknown to the model as well: INVALID_ARGUMENT."""
    with pytest.raises(InvalidRequest, match=words) as refused:
        await after_of(*STEPS).infer(model_of(outputs), asking("label", wanted), CALL)

    assert refused.value.reason == "OUTPUT_UNKNOWN"


async def test_behind_keep_no_other_output_is_known(after_of: Any, model_of: Any, outputs: Any) -> None:
    """One of the model's that is not kept can't be had by its name."""
    with pytest.raises(InvalidRequest, match=r'output "embedding": after\.0\.keep does not keep it'):
        await after_of({"keep": ["label"]}).infer(model_of(outputs), asking("embedding"), CALL)


async def test_a_step_on_an_output_that_the_model_has_not(after_of: Any, model_of: Any, outputs: Any) -> None:
    """INTERNAL whether the answer lacks it or the model refuses it: the caller has never named it."""
    after, model = after_of(DECIDE), model_of(outputs)

    for request in (asking(), asking("decision")):
        with pytest.raises(Internal, match='output "p": ') as failed:
            await after.infer(model, request, CALL)
        assert failed.value.reason == "ANSWER_MISFIT"
    with pytest.raises(Internal, match='output "p": '):
        _ = [answer async for answer in after.stream(model, asking("decision"), CALL)]


async def test_a_model_that_can_not_say_its_outputs_now(
    after_of: Any, model_of: Any, outputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its refusal is passed on then, and nothing is made of it."""
    model = model_of(outputs)

    async def away(request: Any, call: Any) -> Any:
        raise Unavailable("away")

    monkeypatch.setattr(model, "metadata", away)
    with pytest.raises(InvalidRequest, match="expected one of"):
        await after_of(DECIDE).infer(model, asking("decision"), CALL)


async def test_every_answer_of_a_stream(backends_of: Any, model_of: Any, outputs: Any, scores: Any) -> None:
    """The later ones too, which no filter sees."""
    model = model_of(outputs, streamed=[{**outputs, "probabilities": scores[::-1]}])
    service = stack(JoinFeatures({}, None, model), service=backends_of(model, *STEPS))

    answers = [read_outputs(answer) async for answer in service.stream(asking("decision"), CALL)]

    assert [answer["decision"].tolist() for answer in answers] == [
        [b"decline", b"review", b"approve"],
        [b"approve", b"review", b"decline"],
    ]


async def test_what_no_step_is_about_is_the_same_object(backends_of: Any, model_of: Any, outputs: Any) -> None:
    """Answers of other models, explanations, and requests for outputs that no step touches; their requests too."""
    model = model_of(outputs)
    backends = backends_of(model, *STEPS)

    for request in (asking(model="other"), asking(model="m-explainer"), asking("other", model="m")):
        if request.model_name == "m":
            model.outputs = {**outputs, "other": np.ones(3)}
        response = await backends.infer(request, CALL)
        assert response is model.answers[-1]
        assert model.requests[-1] is request


async def test_a_service_with_steps_alone(backends_of: Any, model_of: Any, outputs: Any) -> None:
    """Its requests need no ids and pass as they are; nothing is looked up, and nothing said of features."""
    model = model_of(outputs)
    backends = backends_of(model, *STEPS)
    service = stack(JoinFeatures({"m": backends._plans["m"]}, None, backends), service=backends)
    request = asking()
    add_inputs(request, {"x": np.ones((3, 2), np.float32)})

    response = await service.infer(request, CALL)

    assert model.requests == [request]
    assert "infermesh_features" not in response.parameters
    assert read_outputs(response)["decision"].tolist() == [b"approve", b"review", b"decline"]


async def test_metadata_tell_the_outputs_after_the_steps(backends_of: Any, model_of: Any, outputs: Any) -> None:
    """Names, datatypes and shapes as the answers have them; those of the explainer are its own."""
    model = model_of(outputs, classes=NAMES)
    top = {"top_k": {"of": "p", "k": 2, "names": "model"}}
    backends = backends_of(model, *STEPS, top)

    seen = await backends.metadata(pb.ModelMetadataRequest(name="m"), CALL)
    explainers = await backends.metadata(pb.ModelMetadataRequest(name="m-explainer"), CALL)
    answer = read_outputs(await backends.infer(asking(), CALL))

    told = [(each.name, each.datatype, list(each.shape)) for each in seen.outputs]
    assert told == [
        ("label", "BYTES", [-1]),
        ("p", "FP32", [-1, 2]),
        ("decision", "BYTES", [-1]),
        ("top_values", "FP32", [-1, 2]),
        ("top_classes", "BYTES", [-1, 2]),
    ]
    assert [(name, [-1, *array.shape[1:]]) for name, array in answer.items()] == [(n, s) for n, _, s in told]
    assert [each.name for each in explainers.outputs] == list(outputs)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (DECIDE, 'after.0.threshold.of: the model has no output "p"; there are label, probabilities, embedding'),
        ({"keep": ["label"]}, ""),
        ({"rename": {"label": "embedding"}}, 'after.0.rename: there is an output "embedding" already'),
        ({"classes": {"of": "label", "as": "embedding"}}, 'after.0.classes.as: there is an output "embedding" already'),
        ({"classes": {"of": "probabilities", "names": ["a"]}}, "after.0.classes.names: 1 names for 2 classes"),
        ({"classes": {"of": "label"}}, ""),
        (
            {"threshold": {**DECIDE["threshold"], "of": "embedding", "column": "fraud"}},
            "after.0.threshold.column: 2 names for 4 classes",
        ),
        (
            {"threshold": {**DECIDE["threshold"], "of": "probabilities", "column": "theft"}},
            'after.0.threshold.column: "theft" is no class of the model; there are genuine, fraud',
        ),
        (
            {"calibrate": {"of": "label", "platt": {"a": -1, "b": 0}}},
            'after.0.calibrate.of: "label" is INT64; expected FP16, BF16, FP32, FP64',
        ),
        ({"top_k": {"of": "probabilities", "k": 3}}, 'after.0.top_k.k: 3 of 2 columns of "probabilities"'),
        ({"top_k": {"of": "label", "k": 1}}, 'after.0.top_k.of: "label" is INT64 [-1]; expected floats [N, C]'),
    ],
)
async def test_steps_are_compared_with_the_model(
    backends_of: Any, model_of: Any, outputs: Any, step: dict[str, Any], expected: str
) -> None:
    """Outputs that are not there, names that are taken, other datatypes and widths: each with its place in the service."""
    model = model_of(outputs, classes=NAMES)
    backends = backends_of(model, step)
    metadata = await backends.model_metadata(pb.ModelMetadataRequest(name="m"), CALL)

    faults = faults_of(metadata, backends._plans["m"], backends.after["m"])

    assert faults == ([expected] if expected else [])


async def test_a_model_without_names_is_told(backends_of: Any, model_of: Any, outputs: Any) -> None:
    """A step that needs the model's property is a fault where it has none; the faults are logged and counted with the others."""
    model = model_of(outputs)
    backends, told = backends_of(model, {"classes": {"of": "label"}}), []

    await check_models({"m": backends._plans["m"]}, backends, lambda *each: told.append(each), {})

    assert told == [("m", 1)]


async def test_faults_are_logged_with_the_model(
    backends_of: Any, model_of: Any, outputs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, as those of inputs are."""
    backends, known = backends_of(model_of(outputs), DECIDE), dict[str, list[str]]()

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            await check_models({"m": backends._plans["m"]}, backends, lambda *each: None, known)

    assert [record.fault.partition(": ")[0] for record in caplog.records] == ["after.0.threshold.of"]
