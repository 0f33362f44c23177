"""What the transformer's tests share: makers of plans and requests, a model that records, keys of their own in a real Valkey."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from infermesh.call import Call
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import InferenceService, ModelRepository
from infermesh.telemetry import Metrics
from infermesh.tensors import add_inputs
from services.transformer.administration import administration
from services.transformer.config import RedisConfig
from services.transformer.metrics import FeatureMetrics
from services.transformer.plan import JoinPlan
from services.transformer.views import FeatureFile
from services.transformer.writer import FeatureWriter

SAMPLES = Path(__file__).parents[3] / "samples"
NOW_S = 1_700_000_000.0

_prefixes = (f"test-{number}" for number in itertools.count())


@pytest.fixture
def samples() -> Path:
    return SAMPLES


@pytest.fixture
def now_s() -> float:
    """The time at which these tests happen."""
    return NOW_S


@pytest.fixture
def now_us() -> int:
    return int(NOW_S * 1e6)


@pytest.fixture
def card() -> dict[str, Any]:
    """A view whose every policy lets a call go on."""
    return {
        "entity": {"name": "card_id"},
        "max_age": "1h",
        "missing": "default",
        "stale": "serve",
        "unavailable": "default",
        "features": [{"name": "limit", "default": 100.0}, {"name": "declines", "default": 1}],
    }


@pytest.fixture
def strict_card(card: dict[str, Any]) -> dict[str, Any]:
    """The same view, whose every policy is `fail`."""
    return {**card, "missing": "fail", "stale": "fail", "unavailable": "fail"}


@pytest.fixture
def file_of() -> Callable[..., FeatureFile]:
    """A feature file with one service, for a model `m`."""

    def file(views: dict[str, Any], inputs: dict[str, Any], /, **service: Any) -> FeatureFile:
        return FeatureFile.model_validate({"views": views, "services": {"m": {"inputs": inputs, **service}}})

    return file


@pytest.fixture
def plan_of(file_of: Callable[..., FeatureFile]) -> Callable[..., JoinPlan]:
    """The plan of a feature file with one service."""

    def plan(
        views: dict[str, Any],
        inputs: dict[str, Any],
        /,
        *,
        max_entities: int = 100_000,
        prefix: str = "p",
        **service: Any,
    ) -> JoinPlan:
        file = file_of(views, inputs, **service)
        return JoinPlan(file, file.services["m"], prefix=prefix, max_entities=max_entities)

    return plan


@pytest.fixture
def request_of() -> Callable[..., pb.ModelInferRequest]:
    """A request with these inputs; a list becomes a BYTES column [N, 1]."""

    def make(arrays: dict[str, Any], *, raw: bool = True, model: str = "m", **fields: Any) -> pb.ModelInferRequest:
        made = pb.ModelInferRequest(model_name=model, **fields)
        columns = {n: np.array(a, np.object_).reshape(-1, 1) if isinstance(a, list) else a for n, a in arrays.items()}
        add_inputs(made, columns, raw=raw)
        return made

    return make


@pytest.fixture
def golden() -> Callable[[str], list[dict[str, Any]]]:
    """The golden cases of a sample model; `inputs`, `request` (if it differs) and `outputs` hold arrays by name."""

    def cases(model: str) -> list[dict[str, Any]]:
        listed = json.loads((SAMPLES / "golden" / f"{model}.json").read_text())["cases"]
        return [
            {
                "version": case["version"],
                "inputs": {tensor["name"]: _array(tensor) for tensor in case["inputs"]},
                "request": {tensor["name"]: _array(tensor) for tensor in case.get("request", [])},
                "outputs": {name: _array(tensor) for name, tensor in case["outputs"].items()},
            }
            for case in listed
        ]

    return cases


def _array(tensor: dict[str, Any]) -> Any:
    if tensor["datatype"] == "BYTES":
        array = np.array([text.encode() for text in tensor["data"]], np.object_)
    else:
        array = np.array(tensor["data"], {"FP32": np.float32, "INT64": np.int64}[tensor["datatype"]])
    return array.reshape(tensor["shape"])


@dataclass
class Recorder(InferenceService, ModelRepository):
    """A model that answers with nothing and keeps what it was asked."""

    described: pb.ModelMetadataResponse = field(default_factory=pb.ModelMetadataResponse)
    indexed: pb.RepositoryIndexResponse = field(default_factory=pb.RepositoryIndexResponse)
    error: Exception | None = None
    requests: list[Any] = field(default_factory=list)

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        self._asked(request)
        return pb.ModelInferResponse(model_name=request.model_name, id=request.id)

    async def metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        self._asked(request)
        return self.described

    async def ready(self, model: str = "", version: str = "") -> bool:
        self._asked((model, version))
        return True

    async def index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        self._asked(request)
        return self.indexed

    async def load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        self._asked(request)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        self._asked(request)
        return pb.RepositoryModelUnloadResponse()

    async def config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        self._asked(request)
        return pb.ModelConfigResponse()

    async def statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        self._asked(request)
        return pb.ModelStatisticsResponse(model_stats=[pb.ModelStatistics(name="of-a-recorder")])

    def _asked(self, what: Any) -> None:
        if self.error is not None:
            raise self.error
        self.requests.append(what)


@pytest.fixture
def recorder() -> Callable[..., Recorder]:
    """Makes models that record."""
    return Recorder


@pytest.fixture
def telemetry_metrics() -> Metrics:
    return Metrics("transformer")


@pytest.fixture
def feature_metrics(telemetry_metrics: Metrics) -> FeatureMetrics:
    return FeatureMetrics(telemetry_metrics, ["card"], ["m"])


@pytest.fixture
def counted(telemetry_metrics: Metrics) -> Callable[..., float]:
    """The value of a metric of the transformer."""

    def value(name: str, **labels: str) -> float:
        found = telemetry_metrics.registry.get_sample_value(name, {"service": "transformer", **labels})
        assert found is not None, f"no metric {name} with {labels}"
        return found

    return value


@pytest.fixture
def redis_config(redis_url: str) -> RedisConfig:
    """The session's Valkey, under a key prefix that no other test has; a busy machine is no slow Redis."""
    return RedisConfig.model_validate({"url": redis_url, "key_prefix": next(_prefixes), "timeout": "5s"})


@pytest.fixture
async def client(redis_config: RedisConfig) -> AsyncIterator[Redis]:
    client = administration(redis_config)
    yield client
    await client.aclose()


@pytest.fixture
def writer_of(client: Redis, redis_config: RedisConfig) -> Callable[..., FeatureWriter]:
    """A writer of a view, under this test's prefix."""

    def writer(file: FeatureFile, name: str = "card", **options: Any) -> FeatureWriter:
        return FeatureWriter(client, name, file.views[name], prefix=redis_config.key_prefix, **options)

    return writer
