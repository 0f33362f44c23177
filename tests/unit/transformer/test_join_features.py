"""The filter: golden values through real models and a real store, and what it says about what it served."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from infermesh.call import Call
from infermesh.config import load
from infermesh.deadline import NO_DEADLINE
from infermesh.errors import FailedPrecondition, InvalidRequest, NotFound, ResourceExhausted, Unavailable
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import Stack, stack
from infermesh.telemetry import Metrics
from infermesh.tensors import read_inputs, read_outputs
from services.predictor.config import PredictorConfig
from services.predictor.predictor import Predictor
from services.predictor.repository.repository import Repository
from services.predictor.source import open_source
from services.transformer.app import plans_of
from services.transformer.backends import Backends
from services.transformer.config import RedisConfig, TransformerConfig
from services.transformer.join_features import JoinFeatures
from services.transformer.load import load_csv
from services.transformer.metrics import FeatureMetrics
from services.transformer.plan import JoinPlan
from services.transformer.row import RowFormat
from services.transformer.store import FeatureStore, StoreUnavailable
from services.transformer.views import FeatureFile
from services.transformer.writer import FeatureWriter

CALL = Call()
TOLERANCE = 1e-5

Golden = Callable[[str], list[dict[str, Any]]]
RequestOf = Callable[..., pb.ModelInferRequest]
WriterOf = Callable[..., FeatureWriter]


@pytest.fixture
async def predictor(samples: Path) -> AsyncIterator[Predictor]:
    repository = Repository(
        PredictorConfig(repository={"root": samples / "models"}), open_source(str(samples / "models"))
    )
    await repository.load_all()
    yield Predictor(repository)
    repository.close()


@pytest.fixture
async def mesh(
    samples: Path, predictor: Predictor, redis_config: RedisConfig, writer_of: WriterOf, recorder: Callable[..., Any]
) -> AsyncIterator[Stack]:
    """The samples' features in a real Valkey, joined before real models in this process; the explainer records."""
    config = load(TransformerConfig, samples / "config" / "transformer.yaml", {})
    config = config.model_copy(update={"redis": redis_config})
    file = config.feature_file()
    metrics = FeatureMetrics(Metrics("transformer"), file.views, file.services)
    plans = plans_of(config, metrics)
    for name, view in file.views.items():
        await load_csv(samples / "features" / view.source, writer_of(file, name), event_time_us=0)
    backends = Backends(
        {"predictor": predictor, "candidate": predictor, "explainer": recorder()}, config.routing, plans
    )
    store = FeatureStore(redis_config, metrics)
    yield stack(JoinFeatures(plans, store, backends), service=backends)
    await store.close()


class FixedStore(FeatureStore):
    """A store that holds given rows, or is away."""

    def __init__(self, rows: dict[bytes, bytes] | None) -> None:
        self.rows = rows

    async def lookup(self, keys: Any, deadline: Any) -> list[bytes | None]:
        if self.rows is None:
            raise StoreUnavailable("Redis is away")
        return [self.rows.get(key) for key in keys]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("model", ["breast-cancer", "fraud-detector", "credit-score"])
async def test_a_client_that_sends_ids_gets_the_golden_answers(
    mesh: Stack, golden: Golden, request_of: RequestOf, model: str, raw: bool
) -> None:
    """For every golden case of the samples, ids and transaction alone give scikit-learn's own answer, from every version."""
    cases = golden(model)
    assert cases

    for case in cases:
        request = request_of(case["request"], raw=raw, model=model, model_version=case["version"], id="7")
        response = await mesh.infer(request, CALL)

        outputs = read_outputs(response)
        assert np.array_equal(outputs["label"], case["outputs"]["label"])
        assert np.allclose(outputs["probabilities"], case["outputs"]["probabilities"], rtol=0, atol=TOLERANCE)
        assert response.parameters["infermesh_features"].string_param == "present"
        assert (response.id, response.model_version, bool(response.raw_output_contents)) == ("7", case["version"], raw)


@pytest.mark.parametrize("model", ["breast-cancer", "fraud-detector", "credit-score"])
async def test_a_client_that_sends_the_models_inputs_is_passed_through(
    mesh: Stack, golden: Golden, request_of: RequestOf, model: str
) -> None:
    """A request with the looked-up values in it is answered by the model as it is, and the answer says whose they are."""
    case = golden(model)[0]

    response = await mesh.infer(request_of(case["inputs"], model=model, model_version=case["version"]), CALL)

    probabilities = read_outputs(response)["probabilities"]
    assert np.allclose(probabilities, case["outputs"]["probabilities"], rtol=0, atol=TOLERANCE)
    assert response.parameters["infermesh_features"].string_param == "given"


async def test_ten_thousand_entities_are_one_request(mesh: Stack, golden: Golden, request_of: RequestOf) -> None:
    """10,000 rows, most ids among them many times, each get the answer of their own entity."""
    case = next(case for case in golden("breast-cancer") if len(case["outputs"]["label"]) == 3)
    ids = np.tile(case["request"]["patient_id"], (3_334, 1))[:10_000]

    outputs = read_outputs(await mesh.infer(request_of({"patient_id": ids}, model="breast-cancer"), CALL))

    expected = np.tile(case["outputs"]["probabilities"], (3_334, 1))[:10_000]
    assert np.allclose(outputs["probabilities"], expected, rtol=0, atol=TOLERANCE)


async def test_an_unknown_card_is_scored_as_a_median_one(mesh: Stack, samples: Path, request_of: RequestOf) -> None:
    """The fraud detector answers for a card that nobody knows, with the declared defaults, and says so."""
    transaction = {
        "amount": np.array([[20.0]], np.float32),
        "merchant_category": np.array([[b"grocery"]], np.object_),
        "hour": np.array([[12.0]], np.float32),
        "country": np.array([[b"DE"]], np.object_),
    }
    file = load(TransformerConfig, samples / "config" / "transformer.yaml", {}).feature_file()
    defaults = np.array([[feature.default for feature in file.views["card"].features]], np.float32)

    unknown = await mesh.infer(request_of({"card_id": [b"c-9999"], **transaction}, model="fraud-detector"), CALL)
    median = await mesh.infer(request_of({"card_features": defaults, **transaction}, model="fraud-detector"), CALL)

    assert np.array_equal(read_outputs(unknown)["probabilities"], read_outputs(median)["probabilities"])
    assert unknown.parameters["infermesh_features"].string_param == "defaulted"


async def test_an_unknown_patient_is_a_failed_precondition(mesh: Stack, request_of: RequestOf) -> None:
    """Nothing stands in for a patient's measurements; the error names patient and measurement."""
    with pytest.raises(FailedPrecondition, match='entity "p-9999": feature "mean_radius" and 29 more: no row'):
        await mesh.infer(request_of({"patient_id": [b"p-9999"]}, model="breast-cancer"), CALL)


async def test_a_model_without_features_gets_the_very_request(
    plan_of: Callable[..., JoinPlan], card: dict[str, Any], recorder: Callable[..., Any], request_of: RequestOf
) -> None:
    """Without a feature service the model gets the sender's own request, not a copy, and the answer says nothing."""
    model, request = recorder(), request_of({"anything": [b"at all"]}, model="iris")
    join = JoinFeatures({"m": plan_of({"card": card}, {"x": {"columns": ["card.*"]}})}, FixedStore(None), model)

    response = await join(request, CALL, model.infer)

    assert model.requests[0] is request
    assert not response.parameters


async def test_iris_passes(mesh: Stack, golden: Golden, request_of: RequestOf) -> None:
    """Iris, which has no features, is answered through the transformer as by the predictor."""
    for case in golden("iris"):
        response = await mesh.infer(request_of(case["inputs"], model="iris", model_version=case["version"]), CALL)

        assert np.array_equal(read_outputs(response)["label"], case["outputs"]["label"])


async def test_an_explainer_gets_its_models_features(mesh: Stack, golden: Golden, request_of: RequestOf) -> None:
    """`breast-cancer-explainer` is joined with the features of `breast-cancer`, and goes to the explainer under its name."""
    case = golden("breast-cancer")[0]

    await mesh.infer(request_of(case["request"], model="breast-cancer-explainer", model_version="1"), CALL)

    backends = mesh.service
    assert isinstance(backends, Backends)
    (asked,) = backends._backends["explainer"].requests  # type: ignore[attr-defined]  # a recorder
    assert (asked.model_name, asked.model_version) == ("breast-cancer-explainer", "1")
    assert np.array_equal(read_inputs(asked)["measurements"], case["inputs"]["measurements"])


@pytest.mark.parametrize(
    ("request_fields", "error", "words"),
    [
        ({"model_version": "99"}, NotFound, "no version 99"),
        ({"model_version": "latest"}, InvalidRequest, "version: expected a number"),
    ],
)
@pytest.mark.parametrize("inputs", [{}, {"patient_id": [b"p-9999"]}], ids=["no ids", "unknown id"])
async def test_the_version_is_checked_before_the_message(
    mesh: Stack, request_of: RequestOf, request_fields: Any, error: Any, words: str, inputs: Any
) -> None:
    """A wrong version is the fault that is told, also when the ids are missing or unknown."""
    with pytest.raises(error, match=words):
        await mesh.infer(request_of(inputs, model="breast-cancer", **request_fields), CALL)


async def test_the_version_is_checked_before_the_number_of_entities(
    plan_of: Callable[..., JoinPlan], card: dict[str, Any], recorder: Callable[..., Any], request_of: RequestOf
) -> None:
    """Too many entities for a version that does not exist: the version is the fault that is told."""
    plan = plan_of({"card": card}, {"x": {"columns": ["card.*"]}}, max_entities=1)
    models = recorder(error=NotFound("no version 9"))
    join = JoinFeatures({"m": plan}, FixedStore({}), models)
    request = request_of({"card_id": [b"a", b"b"]}, model_version="9")

    with pytest.raises(NotFound, match="no version 9"):
        await join(request, CALL, models.infer)
    models.error = None
    with pytest.raises(ResourceExhausted, match="2 entities, at most 1"):
        await join(request, CALL, models.infer)


async def test_a_wrong_message_is_told_while_the_model_is_away(
    plan_of: Callable[..., JoinPlan], card: dict[str, Any], recorder: Callable[..., Any], request_of: RequestOf
) -> None:
    """If nobody can say whether the version exists, what is known to be wrong is told."""
    models = recorder(error=Unavailable("away"))
    join = JoinFeatures({"m": plan_of({"card": card}, {"x": {"columns": ["card.*"]}})}, FixedStore({}), models)

    with pytest.raises(InvalidRequest, match='input "card_id": missing'):
        await join(request_of({}), CALL, models.infer)


async def test_a_flood_of_wrong_requests_asks_the_model_once_a_second(
    plan_of: Callable[..., JoinPlan], card: dict[str, Any], recorder: Callable[..., Any], request_of: RequestOf
) -> None:
    """That a version exists is known for a second; that it does not is asked each time, and each version by itself."""
    now, model = [100.0], recorder()
    plans = {"m": plan_of({"card": card}, {"x": {"columns": ["card.*"]}})}
    join = JoinFeatures(plans, FixedStore({}), model, monotonic=lambda: now[0])

    async def refused(version: str, error: type[Exception] = InvalidRequest) -> int:
        with pytest.raises(error):
            await join(request_of({}, model_version=version), CALL, model.infer)
        return len(model.requests)

    assert [await refused("1") for _ in range(3)] == [1, 1, 1]
    assert await refused("2") == 2
    now[0] += 1.0
    assert await refused("1") == 3
    now[0] += 1.0
    model.error = NotFound("no version 1")
    for _ in range(2):
        await refused("1", NotFound)


async def test_what_was_served_is_told(
    plan_of: Callable[..., JoinPlan],
    card: dict[str, Any],
    recorder: Callable[..., Any],
    request_of: RequestOf,
    now_s: float,
) -> None:
    """The response says present, stale, defaulted or redis_unavailable, by a clock that the test holds."""
    plan = plan_of({"card": card}, {"x": {"columns": ["card.*"]}})
    written_us = int(now_s * 1e6)
    row = RowFormat([("limit", "FP32"), ("declines", "FP32")]).pack([1.0, 2.0], written_us)
    model = recorder()

    async def told(store: FixedStore, at_s: float, *ids: bytes) -> str:
        join = JoinFeatures({"m": plan}, store, model, clock=lambda: at_s)
        response = await join(request_of({"card_id": list(ids)}), CALL, model.infer)
        return str(response.parameters["infermesh_features"].string_param)

    full, away = FixedStore({b"p:card:a": row}), FixedStore(None)
    assert await told(full, now_s + 3_600, b"a") == "present"
    assert await told(full, now_s + 3_601, b"a") == "stale"
    assert await told(full, now_s, b"a", b"b") == "defaulted"
    assert await told(away, now_s, b"a") == "redis_unavailable"
    assert read_inputs(model.requests[-1])["x"].tolist() == [[100.0, 1.0]]


async def test_a_policy_may_refuse_to_serve_without_redis(
    plan_of: Callable[..., JoinPlan],
    strict_card: dict[str, Any],
    recorder: Callable[..., Any],
    request_of: RequestOf,
) -> None:
    """Where a view says fail, a call without Redis ends UNAVAILABLE and the model is not asked."""
    model = recorder()
    join = JoinFeatures({"m": plan_of({"card": strict_card}, {"x": {"columns": ["card.*"]}})}, FixedStore(None), model)

    with pytest.raises(Unavailable, match="Redis is away") as refused:
        await join(request_of({"card_id": [b"a"]}), CALL, model.infer)

    assert refused.value.reason == "FEATURE_STORE_UNAVAILABLE"
    assert model.requests == []


async def test_a_stream_is_joined_too(mesh: Stack, golden: Golden, request_of: RequestOf) -> None:
    """A request of a stream gets its features like any other."""
    case = golden("breast-cancer")[0]

    answers = [a async for a in mesh.stream(request_of(case["request"], model="breast-cancer"), CALL)]

    assert np.array_equal(read_outputs(answers[0])["label"], case["outputs"]["label"])
    assert answers[0].parameters["infermesh_features"].string_param == "present"


async def test_the_sample_request_is_served(mesh: Stack, samples: Path, request_of: RequestOf) -> None:
    """The example that the samples ship is one that version 2 calls a fraud and version 1 does not."""
    listed = json.loads((samples / "requests" / "fraud-detector.json").read_text())["inputs"]
    dtypes = {"FP32": np.float32, "BYTES": np.object_}
    arrays = {
        t["name"]: np.array(
            [d.encode() if isinstance(d, str) else d for d in t["data"]], dtypes[t["datatype"]]
        ).reshape(t["shape"])
        for t in listed
    }

    labels = {
        version: int(
            read_outputs(await mesh.infer(request_of(arrays, model="fraud-detector", model_version=version), CALL))[
                "label"
            ][0]
        )
        for version in ("1", "2")
    }

    assert labels == {"1": 0, "2": 1}


async def test_rows_of_a_changed_view_are_not_read_by_guessing(
    redis_config: RedisConfig,
    client: Redis,
    writer_of: WriterOf,
    file_of: Callable[..., FeatureFile],
    card: dict[str, Any],
    feature_metrics: FeatureMetrics,
    counted: Callable[..., float],
    recorder: Callable[..., Any],
    request_of: RequestOf,
) -> None:
    """After the columns of a view were swapped, rows of the old order count as foreign and defaults are served."""
    inputs = {"x": {"columns": ["card.*"]}}
    old = writer_of(file_of({"card": card}, inputs))
    await old.write([old.pack("a", [5.0, 6.0], 0)])
    file = file_of({"card": {**card, "features": card["features"][::-1]}}, inputs)
    plan = JoinPlan(
        file, file.services["m"], prefix=redis_config.key_prefix, max_entities=10, tally=feature_metrics.tally
    )
    store, model = FeatureStore(redis_config, feature_metrics), recorder()

    await JoinFeatures({"m": plan}, store, model)(request_of({"card_id": [b"a"]}), CALL, model.infer)
    await store.close()

    assert read_inputs(model.requests[0])["x"].tolist() == [[1.0, 100.0]]
    assert counted("infermesh_transformer_entities_total", view="card", status="foreign") == 1
    assert await store.lookup([], NO_DEADLINE) == []
