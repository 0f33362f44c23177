"""The transformer as it is composed, over real channels, with a real store that is stopped and started."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infermesh.call import Call
from infermesh.cli.valkey import Valkey
from infermesh.config import BackendConfig, ServerConfig, TelemetryConfig, load
from infermesh.deadline import Deadline
from infermesh.errors import FailedPrecondition, InvalidRequest, NotFound, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.runtime import Telemetry
from infermesh.service import Stack
from infermesh.telemetry import Metrics, Tracing
from infermesh.tensors import read_outputs
from infermesh.transport import RemoteService, Server
from services.predictor.app import build as build_predictor
from services.predictor.config import PredictorConfig, RepositoryConfig
from services.transformer.administration import administration
from services.transformer.app import build
from services.transformer.config import TransformerConfig
from services.transformer.load import load_csv
from services.transformer.store import FeatureStore
from services.transformer.writer import FeatureWriter

LOCAL = ServerConfig(host="127.0.0.1", grpc_port=0)
NOBODY = "127.0.0.1:1"
TOLERANCE = 1e-5

Golden = Callable[[str], list[dict[str, Any]]]
RequestOf = Callable[..., pb.ModelInferRequest]


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


def config_of(samples: Path, redis_url: str, predictor: str, **environ: str) -> TransformerConfig:
    prefix = "INFERMESH_TRANSFORMER__"
    return load(
        TransformerConfig,
        samples / "config" / "transformer.yaml",
        {
            f"{prefix}REDIS__URL": redis_url,
            f"{prefix}REDIS__PROBE_EVERY": "10ms",
            f"{prefix}REDIS__TIMEOUT": "500ms",
            f"{prefix}BACKENDS__PREDICTOR__TARGET": predictor,
            f"{prefix}BACKENDS__CANDIDATE__TARGET": predictor,
            f"{prefix}BACKENDS__EXPLAINER__TARGET": NOBODY,
            **environ,
        },
    )


async def fill(samples: Path, config: TransformerConfig) -> None:
    client = administration(config.redis)
    for name, view in config.feature_file().views.items():
        await load_csv(samples / "features" / view.source, FeatureWriter(client, name, view), event_time_us=0)
    await client.aclose()


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
async def predictor(samples: Path) -> AsyncIterator[RemoteService]:
    config = PredictorConfig(repository=RepositoryConfig(root=samples / "models"))
    async with build_predictor(config, telemetry("predictor")) as stack, served("predictor", stack) as remote:
        yield remote


def target_of(remote: RemoteService) -> str:
    assert isinstance(remote.backend.target, str)
    return remote.backend.target


async def right(remote: RemoteService, case: dict[str, Any], request: pb.ModelInferRequest) -> str:
    """Ask, compare with scikit-learn's answer, and return what was said of the features."""
    response = await remote.infer(request, Call(Deadline.after(10)))
    outputs = read_outputs(response)
    assert np.allclose(outputs["probabilities"], case["outputs"]["probabilities"], rtol=0, atol=TOLERANCE)
    return response.parameters["infermesh_features"].string_param


async def said(remote: RemoteService, request: pb.ModelInferRequest) -> str:
    """Ask, and return what was said of the features."""
    response = await remote.infer(request, Call(Deadline.after(10)))
    return response.parameters["infermesh_features"].string_param


async def test_redis_stopped_and_started(
    samples: Path, predictor: RemoteService, own_valkey: Valkey, golden: Golden, request_of: RequestOf
) -> None:
    """With Redis stopped a fraud is scored by defaults and a patient is UNAVAILABLE; with Redis back all is as before."""
    config = config_of(samples, own_valkey.url, target_of(predictor))
    await fill(samples, config)
    card = golden("fraud-detector")[1]
    patient = golden("breast-cancer")[1]
    card_request = request_of(card["request"], model="fraud-detector", model_version=card["version"])
    patient_request = request_of(patient["request"], model="breast-cancer")
    observed = telemetry("transformer")

    def up() -> float | None:
        return observed.metrics.registry.get_sample_value("infermesh_transformer_redis_up", {"service": "transformer"})

    async with build(config, observed) as stack, served("transformer", stack) as remote:
        assert await right(remote, card, card_request) == "present"
        assert await right(remote, patient, patient_request) == "present"

        own_valkey.stop()
        for _ in range(5):
            assert await said(remote, card_request) == "redis_unavailable"
            with pytest.raises(Unavailable, match='view "patient" is not served without it'):
                await remote.infer(patient_request, Call(Deadline.after(10)))
        assert await stack.ready()

        assert up() == 0
        own_valkey.start()
        await fill(samples, config)
        async with asyncio.timeout(10):
            while await said(remote, card_request) != "present":
                pass  # a client that goes on asking
        assert up() == 1
        assert await right(remote, card, card_request) == "present"
        assert await right(remote, patient, patient_request) == "present"


async def test_a_hanging_redis_is_answered_for_in_time(
    samples: Path, predictor: RemoteService, own_valkey: Valkey, golden: Golden, request_of: RequestOf
) -> None:
    """A Redis that hangs leaves the model most of the call's time: defaults are served within the deadline."""
    config = config_of(samples, own_valkey.url, target_of(predictor))
    case = golden("fraud-detector")[1]

    async with build(config, telemetry("transformer")) as stack, served("transformer", stack) as remote:
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            request = request_of(case["request"], model="fraud-detector")
            response = await remote.infer(request, Call(Deadline.after(1.5)))
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)

    assert response.parameters["infermesh_features"].string_param == "redis_unavailable"


async def test_work_that_has_died_does_not_end_the_service_badly(
    samples: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What background work has failed with is logged when the transformer ends, and ends nothing else."""
    died = asyncio.Event()

    async def dies(store: FeatureStore) -> None:
        died.set()
        raise RuntimeError("the handler is closed")

    monkeypatch.setattr(FeatureStore, "watch", dies)

    async with build(config_of(samples, "redis://127.0.0.1:1", NOBODY), telemetry("transformer")):
        await asyncio.wait_for(died.wait(), 5)

    assert "background work had failed" in caplog.messages


async def test_it_is_ready_with_nothing_behind_it(samples: Path, request_of: RequestOf) -> None:
    """Without Redis and without any backend it starts, is ready for traffic, and answers each call with who is away."""
    config = config_of(samples, "redis://127.0.0.1:1", NOBODY)

    async with build(config, telemetry("transformer")) as stack, served("transformer", stack) as remote:
        assert await remote.ready()
        assert not await remote.ready("iris")
        with pytest.raises(Unavailable, match="predictor") as away:
            await remote.infer(
                request_of({"features": np.ones((1, 4), np.float32)}, model="iris"), Call(Deadline.after(5))
            )
        with pytest.raises(InvalidRequest, match='"patient_id": missing'):
            await remote.infer(request_of({}, model="breast-cancer"), Call(Deadline.after(5)))

    assert away.value.hop == "predictor"


async def test_errors_of_the_predictor_pass_unchanged(
    samples: Path, predictor: RemoteService, redis_url: str, request_of: RequestOf
) -> None:
    """An unknown model, an unknown version and a bad tensor are told as the predictor tells them."""
    config = config_of(samples, redis_url, target_of(predictor))
    requests = [
        request_of({}, model="nonsense"),
        request_of({}, model="iris", model_version="99"),
        request_of({"features": np.ones((1, 5), np.float32)}, model="iris"),
    ]

    async with build(config, telemetry("transformer")) as stack, served("transformer", stack) as remote:
        for request in requests:
            with pytest.raises((NotFound, InvalidRequest)) as direct:
                await predictor.infer(request, Call(Deadline.after(5)))
            with pytest.raises(type(direct.value)) as through:
                await remote.infer(request, Call(Deadline.after(5)))

            assert (through.value.message, through.value.reason) == (direct.value.message, direct.value.reason)
            assert through.value.hop == "predictor"


async def test_a_missing_feature_reaches_the_client(
    samples: Path, predictor: RemoteService, redis_url: str, request_of: RequestOf
) -> None:
    """FAILED_PRECONDITION crosses the wire with its reason, and names the transformer as the hop."""
    config = config_of(samples, redis_url, target_of(predictor), INFERMESH_TRANSFORMER__REDIS__KEY_PREFIX="empty")

    async with build(config, telemetry("transformer")) as stack, served("transformer", stack) as remote:
        with pytest.raises(FailedPrecondition, match='entity "p-0001"') as failed:
            await remote.infer(request_of({"patient_id": [b"p-0001"]}, model="breast-cancer"), Call(Deadline.after(5)))

    assert (failed.value.reason, failed.value.hop) == ("FEATURE_MISSING", "transformer")


async def test_metadata_index_and_configuration_are_the_predictors(
    samples: Path, predictor: RemoteService, redis_url: str
) -> None:
    """The transformer shows the ids in a model's metadata, and everything else of its models as the predictor does."""
    config = config_of(samples, redis_url, target_of(predictor))
    call = Call(Deadline.after(10))

    async with build(config, telemetry("transformer")) as stack, served("transformer", stack) as remote:
        fraud = await remote.metadata(pb.ModelMetadataRequest(name="fraud-detector"), call)
        index = await remote.index(pb.RepositoryIndexRequest(), call)
        settings = await remote.config(pb.ModelConfigRequest(name="iris"), call)
        statistics = await remote.statistics(pb.ModelStatisticsRequest(), call)

        assert [t.name for t in fraud.inputs] == ["card_id", "amount", "merchant_category", "hour", "country"]
        assert await remote.metadata(pb.ModelMetadataRequest(name="iris"), call) == await predictor.metadata(
            pb.ModelMetadataRequest(name="iris"), call
        )
        assert index == await predictor.index(pb.RepositoryIndexRequest(), call)
        assert settings == await predictor.config(pb.ModelConfigRequest(name="iris"), call)
        assert len(statistics.model_stats) == 8


async def test_calls_are_counted_by_model(
    samples: Path, predictor: RemoteService, redis_url: str, golden: Golden, request_of: RequestOf
) -> None:
    """Requests appear under the model's name, refused ones too, and those for names that nobody knows under none."""
    config = config_of(samples, redis_url, target_of(predictor))
    observed = telemetry("transformer")
    case = golden("iris")[0]

    async with build(config, observed) as stack:
        await stack.infer(request_of(case["inputs"], model="iris", model_version="1"), Call())
        for model in ("breast-cancer", "nonsense"):
            with pytest.raises((InvalidRequest, NotFound)):
                await stack.infer(request_of({}, model=model), Call())

    def count(model: str, version: str, code: str) -> float | None:
        labels = {"service": "transformer", "model": model, "version": version, "variant": "", "code": code}
        return observed.metrics.registry.get_sample_value("infermesh_requests_total", labels)

    assert count("iris", "1", "OK") == 1
    assert count("breast-cancer", "", "INVALID_ARGUMENT") == 1
    assert count("", "", "NOT_FOUND") == 1


async def test_without_a_feature_file_everything_passes(
    samples: Path, predictor: RemoteService, golden: Golden, request_of: RequestOf
) -> None:
    """A transformer without views is a router: no Redis is asked, and every model takes its own inputs."""
    config = TransformerConfig(
        backends={name: BackendConfig(target=target_of(predictor)) for name in ("predictor", "explainer")}
    )
    case = golden("fraud-detector")[0]

    async with build(config, telemetry("transformer")) as stack:
        response = await stack.infer(request_of(case["inputs"], model="fraud-detector", model_version="1"), Call())

    assert np.array_equal(read_outputs(response)["label"], case["outputs"]["label"])
