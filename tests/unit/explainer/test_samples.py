"""The sample models, explained over a real channel by a real predictor."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from math import factorial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from infermesh.call import Call
from infermesh.config import ServerConfig, TelemetryConfig, load
from infermesh.deadline import Deadline
from infermesh.errors import DeadlineExceeded, MeshError, NotFound, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.runtime import Telemetry
from infermesh.service import Stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.transport import Server
from services.explainer.app import build
from services.explainer.background_file import read_background
from services.explainer.config import ExplainerConfig
from services.predictor.app import build as build_predictor
from services.predictor.config import PredictorConfig

SAMPLES = Path(__file__).parents[3] / "samples"


def telemetry(service: str) -> Telemetry:
    return Telemetry(Metrics(service), Tracing(service, TelemetryConfig()))


@pytest.fixture
async def predictor() -> AsyncIterator[Server]:
    """A predictor with the sample models on a port of its own."""
    settings = {"INFERMESH_PREDICTOR__REPOSITORY__ROOT": str(SAMPLES / "models")}
    async with build_predictor(load(PredictorConfig, None, settings), telemetry("predictor")) as service:
        server = Server("predictor", ServerConfig(host="127.0.0.1", grpc_port=0), inside_mesh=True)
        await server.start()
        server.mount(service)
        await server.set_ready(True)
        yield server
        await server.stop(0)


@pytest.fixture
async def mesh(predictor: Server) -> AsyncIterator[SimpleNamespace]:
    """`service`, built from the sample configuration, and its `metrics`."""
    told = telemetry("explainer")
    settings = {"INFERMESH_EXPLAINER__BACKENDS__PREDICTOR__TARGET": f"127.0.0.1:{predictor.port}"}
    config = load(ExplainerConfig, SAMPLES / "config" / "explainer.yaml", settings)
    async with build(config, told) as service:
        yield SimpleNamespace(service=service, metrics=told.metrics)


def golden(model: str, version: str) -> dict[str, np.ndarray]:
    """The inputs of a golden case as the model takes them."""
    cases = json.loads((SAMPLES / "golden" / f"{model}.json").read_text())
    cases = cases["cases"] if isinstance(cases, dict) else cases
    case = next(case for case in cases if str(case["version"]) == version)
    arrays = {}
    for one in case["inputs"]:
        data = [e.encode() for e in one["data"]] if one["datatype"] == "BYTES" else one["data"]
        array = np.empty(len(data), object if one["datatype"] == "BYTES" else np.float32)
        array[:] = data
        arrays[one["name"]] = array.reshape(one["shape"])
    return arrays


def first(arrays: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    return {name: array[:rows] for name, array in arrays.items()}


def runs(model: str, version: str) -> Any:
    """The model's probabilities, computed here and not by the mesh."""
    session = onnxruntime.InferenceSession(str(SAMPLES / "models" / model / version / "model.onnx"))

    def probabilities(arrays: dict[str, np.ndarray]) -> np.ndarray:
        fed = {
            name: np.array([[e.decode() for e in row] for row in array], object) if array.dtype == object else array
            for name, array in arrays.items()
        }
        return session.run(["probabilities"], fed)[0].astype(np.float64)

    return probabilities


async def explain(
    lab: SimpleNamespace, service: Stack, model: str, arrays: dict, version: str = "", **asked: Any
) -> Any:
    request = lab.request_of(arrays, model=model, **asked)
    request.model_version = version
    return lab.Explained(await service.infer(request, Call(deadline=Deadline.after(30))))


async def test_iris_is_explained_as_by_definition(lab: SimpleNamespace, mesh: SimpleNamespace) -> None:
    """All coalitions of four features against 64 background rows, computed here one by one with ONNX Runtime."""
    rows = first(golden("iris", "2"), 3)
    probabilities = runs("iris", "2")
    background = read_background(SAMPLES / "backgrounds" / "iris.json", "default").arrays["features"]

    def value(x: np.ndarray, known: tuple[int, ...]) -> np.ndarray:
        mixed = background.copy()
        mixed[:, list(known)] = x[list(known)]
        return probabilities({"features": mixed}).mean(axis=0)

    answer = await explain(lab, mesh.service, "iris", rows, version="2")

    for x, attributions in zip(rows["features"], answer.attributions, strict=True):
        for player in range(4):
            others = [i for i in range(4) if i != player]
            expected = np.zeros(3)
            for size in range(4):
                for joined in itertools.combinations(others, size):
                    weight = factorial(size) * factorial(3 - size) / factorial(4)
                    expected += weight * (value(x, (*joined, player)) - value(x, joined))
            assert attributions[player] == pytest.approx(expected, abs=1e-6)
    assert answer.response.model_version == "2"
    assert answer.output_names.tolist() == [b"setosa", b"versicolor", b"virginica"]
    assert answer.feature_names.tolist()[0] == b"sepal_length_cm"


async def test_a_payment_with_strings_is_explained_by_its_twelve_features(
    lab: SimpleNamespace, mesh: SimpleNamespace
) -> None:
    """Five inputs of two datatypes; exact and sampled agree within what the sampled ones say; few messages."""
    rows = first(golden("fraud-detector", "2"), 1)

    exact = await explain(lab, mesh.service, "fraud-detector", rows, version="2")
    sampled = await explain(
        lab, mesh.service, "fraud-detector", rows, version="2", method="permutation", max_evals=1000
    )

    assert [name.decode() for name in exact.feature_names] == [
        "amount",
        "merchant_category",
        "hour",
        "country",
        "card_age_days",
        "credit_limit",
        "average_amount_30d",
        "transactions_24h",
        "declines_7d",
        "distance_from_home_km",
        "foreign_share_90d",
        "home_country_risk",
    ]
    assert exact.output_names.tolist() == [b"genuine", b"fraud"]
    assert exact.predictions == pytest.approx(runs("fraud-detector", "2")(rows), abs=1e-6)
    assert exact.parameters["infermesh_method"] == "exact"
    assert exact.parameters["infermesh_rows_sent"] < 4096 * 100
    for answer in (exact, sampled):
        assert answer.additivity_error.max() <= 1e-9
    assert (np.abs(sampled.attributions - exact.attributions) <= 5 * sampled.std_error + 1e-9).all()
    sent = mesh.metrics.registry.get_sample_value(
        "infermesh_explainer_asks_total",
        {"service": "explainer", "model": "fraud-detector-explainer", "method": "exact"},
    )
    assert sent is not None
    assert sent <= 2 + 4096 * 100 / 4096


async def test_thirty_measurements_are_sampled(lab: SimpleNamespace, mesh: SimpleNamespace) -> None:
    """More features than can be enumerated: additive, with an error that is told, the same again for the same seed."""
    rows = first(golden("breast-cancer", "1"), 2)

    answer = await explain(lab, mesh.service, "breast-cancer", rows, seed=11, tolerance=0.02, classes="benign")
    again = await explain(lab, mesh.service, "breast-cancer", rows, seed=11, tolerance=0.02, classes="benign")

    assert answer.attributions.shape == (2, 30, 1)
    assert answer.parameters["infermesh_converged"] is True
    assert 0 < answer.std_error.max() <= 0.02
    assert answer.additivity_error.max() <= 1e-9
    assert answer.attributions.tobytes() == again.attributions.tobytes()


async def test_the_predictors_refusals_are_the_callers(lab: SimpleNamespace, mesh: SimpleNamespace) -> None:
    """Unknown model and version, a version that is none, bytes that are no text: code and words of the predictor."""
    rows = first(golden("fraud-detector", "1"), 1)

    with pytest.raises(NotFound, match='model "nobody": no such model'):
        await explain(lab, mesh.service, "nobody", rows)
    with pytest.raises(NotFound, match='model "fraud-detector": no version 99'):
        await explain(lab, mesh.service, "fraud-detector", rows, version="99")
    with pytest.raises(MeshError, match="expected a number") as refused:
        await explain(lab, mesh.service, "fraud-detector", rows, version="newest")
    assert refused.value.code == "INVALID_ARGUMENT"
    rows["country"] = np.array([[b"\xff"]], object)
    with pytest.raises(MeshError, match=r'input "country": .*UTF-8') as refused:
        await explain(lab, mesh.service, "fraud-detector", rows)
    assert refused.value.code == "INVALID_ARGUMENT"


async def test_metadata_index_and_readiness_of_the_samples(mesh: SimpleNamespace) -> None:
    """Every version of every sample model has an explainer, and its metadata tell the features."""
    index = await mesh.service.index(pb.RepositoryIndexRequest(), Call())
    metadata = await mesh.service.metadata(pb.ModelMetadataRequest(name="breast-cancer-explainer"), Call())
    config = await mesh.service.config(pb.ModelConfigRequest(name="fraud-detector-explainer"), Call())

    assert ("fraud-detector-explainer", "3") in {(one.name, one.version) for one in index.models}
    assert list(metadata.outputs[0].shape) == [-1, 30, -1]
    assert metadata.properties["infermesh.background.rows"] == "64"
    assert "infermesh.refused" not in metadata.properties
    assert [one.data_type for one in config.config.input].count(pb.TYPE_STRING) == 2
    assert await mesh.service.ready("iris-explainer", "2")


async def test_a_deadline_of_a_millisecond_is_deadline_exceeded(lab: SimpleNamespace, mesh: SimpleNamespace) -> None:
    """Whatever was reached by then; a good request right after is served."""
    rows = first(golden("iris", "1"), 1)

    with pytest.raises(DeadlineExceeded):
        await mesh.service.infer(lab.request_of(rows, model="iris"), Call(deadline=Deadline.after(0.001)))

    assert (await explain(lab, mesh.service, "iris", rows)).attributions.shape == (1, 4, 3)


async def test_ten_thousand_rows_end_at_the_deadline(lab: SimpleNamespace, mesh: SimpleNamespace) -> None:
    """Too many for the time: DEADLINE_EXCEEDED at the deadline and not later, and nothing goes on; a small one is served."""
    rows = {name: np.repeat(array[:1], 10_000, axis=0) for name, array in golden("breast-cancer", "1").items()}
    rows["measurements"] = rows["measurements"] * np.linspace(0.5, 1.5, 10_000, dtype=np.float32)[:, None]
    loop = asyncio.get_running_loop()
    began = loop.time()

    with pytest.raises(DeadlineExceeded):
        await mesh.service.infer(lab.request_of(rows, model="breast-cancer"), Call(deadline=Deadline.after(0.8)))

    assert loop.time() - began < 3
    assert (await explain(lab, mesh.service, "iris", first(golden("iris", "1"), 1))).attributions.shape == (1, 4, 3)


async def test_a_predictor_that_is_away_is_unavailable_and_the_explainer_stays_ready(
    lab: SimpleNamespace, mesh: SimpleNamespace, predictor: Server
) -> None:
    """UNAVAILABLE names the backend; readiness of the explainer is its own, that of a model is not."""
    await predictor.stop(0)

    with pytest.raises(Unavailable, match="predictor"):
        await explain(lab, mesh.service, "iris", first(golden("iris", "1"), 1))
    assert await mesh.service.ready()
    assert not await mesh.service.ready("iris-explainer")


async def test_the_stack_counts_explanations_by_model_and_code(lab: SimpleNamespace, mesh: SimpleNamespace) -> None:
    """A name that the backend knows is a label; one that it does not is counted without."""
    await explain(lab, mesh.service, "iris", first(golden("iris", "1"), 1), version="1")
    with pytest.raises(NotFound):
        await explain(lab, mesh.service, "nobody", first(golden("iris", "1"), 1))

    def count(model: str, version: str, code: str) -> float | None:
        labels = {"service": "explainer", "model": model, "version": version, "variant": "", "code": code}
        return mesh.metrics.registry.get_sample_value("infermesh_requests_total", labels)

    assert count("iris-explainer", "1", "OK") == 1
    assert count("", "", "NOT_FOUND") == 1
    assert repr(mesh.service).startswith(
        "Measured → WithinDeadline(30 s) → Explainer(Retry(3 attempts) → RemoteService(predictor), 4 backgrounds)"
    )
