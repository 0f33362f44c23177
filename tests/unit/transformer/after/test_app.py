"""Steps after real models, through the transformer as it is composed and over real channels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from infermesh.call import Call
from infermesh.config import BackendConfig, ServerConfig, TelemetryConfig
from infermesh.deadline import Deadline
from infermesh.errors import InvalidRequest
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.runtime import Telemetry
from infermesh.service import Stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.tensors import read_outputs
from infermesh.transport import RemoteService, Server
from services.predictor.app import build as build_predictor
from services.predictor.config import PredictorConfig, RepositoryConfig
from services.transformer.app import build
from services.transformer.config import RedisConfig, TransformerConfig
from services.transformer.load import load_csv
from services.transformer.writer import FeatureWriter

LOCAL = ServerConfig(host="127.0.0.1", grpc_port=0)
IRIS: list[dict[str, Any]] = [
    {"top_k": {"of": "probabilities", "k": 2, "names": "model"}},
    {"classes": {"of": "probabilities", "as": "class"}},
    {"drop": ["label"]},
]
FRAUD: list[dict[str, Any]] = [
    {"calibrate": {"of": "probabilities", "column": "fraud", "isotonic": {"x": [0.0, 1.0], "y": [0.0, 0.5]}}},
    {"threshold": {"of": "probabilities", "column": "fraud", "at": [0.1], "decisions": ["approve", "decline"]}},
    {"classes": {"of": "label"}},
]


@asynccontextmanager
async def served(name: str, service: Stack) -> AsyncIterator[RemoteService]:
    """A service on a port of its own, as a client sees it."""
    server = Server(name, LOCAL, inside_mesh=True)
    await server.start()
    server.mount(service)
    await server.set_ready(True)
    remote = RemoteService(BackendConfig(target=f"127.0.0.1:{server.port}"), name)
    yield remote
    await remote.close()
    await server.stop(1)


def telemetry(name: str) -> Telemetry:
    return Telemetry(Metrics(name), Tracing(name, TelemetryConfig()))


@pytest.fixture
async def mesh(
    samples: Path,
    tmp_path: Path,
    redis_config: RedisConfig,
    writer_of: Callable[..., FeatureWriter],
) -> AsyncIterator[tuple[RemoteService, RemoteService]]:
    """The transformer with steps after two of the samples' models, and the predictor behind it."""
    features = yaml.safe_load((samples / "config" / "features.yaml").read_text())
    features["services"]["fraud-detector"]["after"] = FRAUD
    features["services"]["iris"] = {"inputs": {}, "after": IRIS}
    (tmp_path / "features.yaml").write_text(yaml.safe_dump(features))
    settings = PredictorConfig(repository=RepositoryConfig(root=samples / "models"))
    async with build_predictor(settings, telemetry("predictor")) as stack, served("predictor", stack) as predictor:
        target = {"target": predictor.backend.target}
        config = TransformerConfig(
            features=tmp_path / "features.yaml",
            redis=redis_config,
            backends={name: BackendConfig.model_validate(target) for name in ("predictor", "explainer")},
        )
        file = config.feature_file()
        for name, view in file.views.items():
            await load_csv(samples / "features" / view.source, writer_of(file, name), event_time_us=0)
        async with build(config, telemetry("transformer")) as stack, served("transformer", stack) as transformer:
            yield transformer, predictor


async def ask(remote: RemoteService, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    return await remote.infer(request, Call(Deadline.after(10)))


@pytest.mark.parametrize("raw", [True, False])
async def test_a_model_without_features(
    mesh: tuple[RemoteService, RemoteService], golden: Any, request_of: Any, raw: bool
) -> None:
    """Names, the two likeliest classes and one output less, of thousands of rows; metadata tell the same."""
    remote, predictor = mesh
    (case, *_) = golden("iris")
    rows = np.tile(case["inputs"]["features"], (1000, 1))
    request = request_of({"features": rows}, model="iris", raw=raw)

    direct = read_outputs(await ask(predictor, request))
    outputs = read_outputs(await ask(remote, request))
    metadata = await remote.metadata(pb.ModelMetadataRequest(name="iris"), Call(Deadline.after(10)))

    names = np.array([b"setosa", b"versicolor", b"virginica"], object)
    likeliest = np.argsort(-direct["probabilities"], axis=1, kind="stable")
    assert [each.name for each in metadata.outputs] == list(outputs)
    assert set(outputs) == {"probabilities", "top_values", "top_classes", "class"}
    assert outputs["probabilities"].tobytes() == direct["probabilities"].tobytes()
    assert np.array_equal(outputs["class"], names[likeliest[:, 0]])
    assert np.array_equal(outputs["top_classes"], names[likeliest[:, :2]])
    assert np.array_equal(outputs["top_values"], np.take_along_axis(direct["probabilities"], likeliest[:, :2], axis=1))


async def test_a_decision_on_what_was_looked_up(
    mesh: tuple[RemoteService, RemoteService], golden: Any, request_of: Any
) -> None:
    """Asked for alone, beside the statuses of the features; the parameters of the answer are there as ever."""
    remote, _ = mesh
    for case in golden("fraud-detector")[:3]:
        request = request_of(case["request"], model="fraud-detector", model_version=case["version"])
        request.outputs.add(name="decision")
        request.outputs.add(name="infermesh_feature_status")

        response = await ask(remote, request)

        outputs = read_outputs(response)
        fraud = case["outputs"]["probabilities"][:, 1]
        assert list(outputs) == ["decision", "infermesh_feature_status"]
        assert outputs["decision"].tolist() == [b"decline" if each / 2 >= 0.1 else b"approve" for each in fraud]
        assert response.parameters["infermesh_features"].string_param == "present"


async def test_all_outputs_and_each_of_a_stream(
    mesh: tuple[RemoteService, RemoteService], golden: Any, request_of: Any
) -> None:
    """The calibrated probabilities are the model's own otherwise; ModelStreamInfer answers alike."""
    remote, _ = mesh
    (case, *_) = golden("fraud-detector")
    request = request_of(case["request"], model="fraud-detector", model_version=case["version"])

    answers = [await ask(remote, request)]
    answers += [answer async for answer in remote.stream(request, Call(Deadline.after(10)))]

    fraud = case["outputs"]["probabilities"][:, 1] / 2
    names = np.array([b"genuine", b"fraud"], object)
    assert len(answers) == 2
    for outputs in map(read_outputs, answers):
        assert set(outputs) == {"probabilities", "label", "decision"}
        assert np.allclose(outputs["probabilities"], np.stack([1 - fraud, fraud], axis=1), rtol=0, atol=1e-5)
        assert np.array_equal(outputs["label"], names[case["outputs"]["label"]])


async def test_an_output_that_was_dropped(mesh: tuple[RemoteService, RemoteService], request_of: Any) -> None:
    """INVALID_ARGUMENT over the wire, with what there is."""
    request = request_of({"features": np.ones((1, 4), np.float32)}, model="iris")
    request.outputs.add(name="label")

    with pytest.raises(
        InvalidRequest, match=r'model "iris": output "label": after\.2\.drop took it away; there are'
    ) as no:
        await ask(mesh[0], request)

    assert (no.value.reason, no.value.hop) == ("OUTPUT_UNKNOWN", "transformer")
