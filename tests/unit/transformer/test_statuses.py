"""The status of each value: on request, in metrics, and with features that the request brings itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from infermesh.call import Call, Caller
from infermesh.errors import FailedPrecondition, InvalidRequest, PermissionDenied
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.service import Infer
from infermesh.tensors import add_outputs, read_inputs, read_outputs
from services.transformer.config import RedisConfig
from services.transformer.join_features import JoinFeatures
from services.transformer.metrics import FeatureMetrics
from services.transformer.plan import JoinPlan
from services.transformer.row import RowFormat
from services.transformer.statuses import Status
from services.transformer.store import FeatureStore, StoreUnavailable
from services.transformer.views import FeatureFile
from tests.unit.transformer.cards import CARD, HOUR_US, NOW_US, card_row

RequestOf = Callable[..., pb.ModelInferRequest]
INPUTS = {"x": {"columns": ["card.limit", "card.declines"], "datatype": "FP32"}, "country": {"feature": "card.country"}}
ROWS = {
    b"p:card:fresh": card_row(10, 2, "DE", [1, 2]),
    b"p:card:null": card_row(10, None, "DE", [1, 2]),
    b"p:card:old": card_row(20, 3, "AT", [1, 2], at_us=NOW_US - HOUR_US - 1),
    b"p:card:foreign": b"no row",
}
PRESENT, NULL, MISSING, STALE, DEFAULTED, OVERRIDDEN, CACHED = Status


class HeldStore(FeatureStore):
    """A store that holds these rows, or is away."""

    def __init__(self, rows: dict[bytes, bytes] | None) -> None:
        self.rows = rows

    async def lookup(self, keys: Any, deadline: Any) -> list[bytes | None]:
        if self.rows is None:
            raise StoreUnavailable("Redis is away")
        return [self.rows.get(key) for key in keys]


@pytest.fixture
def asked() -> list[pb.ModelInferRequest]:
    """What the model was asked."""
    return []


@pytest.fixture
def model(asked: list[pb.ModelInferRequest]) -> Infer:
    """A model with one output, raw if it was asked so."""

    async def infer(request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        asked.append(request)
        response = pb.ModelInferResponse(model_name=request.model_name)
        add_outputs(response, [("y", "FP32", np.ones((1, 1), np.float32))], raw=bool(request.raw_input_contents))
        return response

    return infer


@pytest.fixture
def ask(model: Infer, recorder: Callable[..., Any]) -> Callable[..., Any]:
    """Asks a model with features, whose clock stands."""

    async def ask(
        request: pb.ModelInferRequest,
        rows: dict[bytes, bytes] | None = ROWS,
        tenant: str = "",
        view: dict[str, Any] = CARD,
        **service: Any,
    ) -> pb.ModelInferResponse:
        declared = {"views": {"card": view}, "services": {"m": {"inputs": INPUTS, **service}}}
        file = FeatureFile.model_validate(declared)
        plan = JoinPlan(file, file.services["m"], prefix="p", max_entities=100)
        join = JoinFeatures({"m": plan}, HeldStore(rows), recorder(), clock=lambda: NOW_US / 1e6)
        return await join(request, Call(caller=Caller(tenant=tenant)), model)

    return ask


def statuses(response: pb.ModelInferResponse) -> Any:
    return read_outputs(response)["infermesh_feature_status"].tolist()


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
async def test_the_status_of_each_value_is_told_on_request(
    ask: Any, asked: list[pb.ModelInferRequest], request_of: RequestOf, raw: bool
) -> None:
    """One row for each entity and one column for each feature, named; the model knows nothing of the wish."""
    request = request_of({"card_id": [b"fresh", b"null", b"old", b"foreign", b"nobody"]}, raw=raw)
    request.parameters["infermesh_feature_status"].bool_param = True

    response = await ask(request)

    assert statuses(response) == [
        [PRESENT, PRESENT, PRESENT],
        [PRESENT, NULL, PRESENT],
        [STALE, STALE, STALE],
        [MISSING, MISSING, MISSING],
        [MISSING, MISSING, MISSING],
    ]
    names = response.outputs[-1].parameters["names"].string_param
    assert names == "card.limit,card.declines,card.country"
    assert [output.name for output in response.outputs] == ["y", "infermesh_feature_status"]
    assert len(response.raw_output_contents) == (2 if raw else 0)
    assert "infermesh_feature_status" not in asked[0].parameters


async def test_a_default_in_the_place_of_a_stale_value_is_told(ask: Any, request_of: RequestOf) -> None:
    """With `stale: default` the status is DEFAULTED, and so it is for all while the store is away."""
    request = request_of({"card_id": [b"fresh", b"old"]})
    request.parameters["infermesh_feature_status"].bool_param = True

    stale = await ask(request, view={**CARD, "stale": "default"})
    away = await ask(request, None)

    assert statuses(stale) == [[PRESENT] * 3, [DEFAULTED] * 3]
    assert statuses(away) == [[DEFAULTED] * 3] * 2


@pytest.mark.parametrize("others", [[], ["y"]])
async def test_the_statuses_may_be_asked_for_as_an_output(
    ask: Any, asked: list[pb.ModelInferRequest], request_of: RequestOf, others: list[str]
) -> None:
    """As one of the requested outputs, or as the only one; the model is not asked for it."""
    request = request_of({"card_id": [b"fresh"]})
    for name in [*others, "infermesh_feature_status"]:
        request.outputs.add(name=name)

    response = await ask(request)

    assert [output.name for output in response.outputs] == [*others, "infermesh_feature_status"]
    assert [output.name for output in asked[0].outputs] == others


async def test_a_wish_that_is_none_is_refused(ask: Any, request_of: RequestOf) -> None:
    """The parameter is a boolean; false is no wish."""
    request = request_of({"card_id": [b"fresh"]})
    request.parameters["infermesh_feature_status"].bool_param = False
    assert [output.name for output in (await ask(request)).outputs] == ["y"]

    request.parameters["infermesh_feature_status"].string_param = "yes"
    with pytest.raises(InvalidRequest, match='parameter "infermesh_feature_status": expected true or false'):
        await ask(request)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
async def test_a_request_may_bring_features_itself(
    ask: Any, asked: list[pb.ModelInferRequest], request_of: RequestOf, raw: bool
) -> None:
    """By name with or without the view, a value for each row or one for all; the rest is looked up, and it is told which."""
    request = request_of(
        {
            "card_id": [b"fresh", b"old"],
            "infermesh_feature.limit": np.array([[1.5]], np.float32),
            "infermesh_feature.card.country": [b"CH", b"IT"],
        },
        raw=raw,
    )
    request.parameters["infermesh_feature_status"].bool_param = True

    response = await ask(request, overrides="on")

    arrays = {name: array.tolist() for name, array in read_inputs(asked[0]).items()}
    assert arrays == {"x": [[1.5, 2], [1.5, 3]], "country": [[b"CH"], [b"IT"]]}
    assert statuses(response) == [[OVERRIDDEN, PRESENT, OVERRIDDEN], [OVERRIDDEN, STALE, OVERRIDDEN]]
    assert response.parameters["infermesh_feature_overrides"].string_param == "card.limit,card.country"


async def test_nobody_misses_what_the_request_brings(ask: Any, asked: Any, request_of: RequestOf) -> None:
    """Under `missing: fail` an unknown entity is served if all its features are given, and else only the others are missed."""
    strict = {**CARD, "missing": "fail", "stale": "fail", "unavailable": "fail"}
    given = {
        "infermesh_feature.limit": np.ones((1, 1), np.float32),
        "infermesh_feature.declines": np.array([7]),
        "infermesh_feature.country": [b"CH"],
    }

    await ask(request_of({"card_id": [b"nobody"], **given}), view=strict, overrides="on")
    await ask(request_of({"card_id": [b"nobody"], **given}), None, view=strict, overrides="on")
    assert [read_inputs(request)["x"].tolist() for request in asked] == [[[1, 7]]] * 2

    given.pop("infermesh_feature.country")
    with pytest.raises(FailedPrecondition, match='feature "country": no row'):
        await ask(request_of({"card_id": [b"nobody"], **given}), view=strict, overrides="on")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "infermesh_feature.limits",
            np.ones((1, 1), np.float32),
            "no such feature is looked up; there are card.country",
        ),
        ("infermesh_feature.taste", np.ones((1, 2), np.float32), "no such feature is looked up"),
        ("infermesh_feature.limit", np.ones((1, 1)), 'expected FP32 \\[N\\] or \\[N, 1\\], got "FP64"'),
        ("infermesh_feature.limit", np.ones((3, 1), np.float32), "expected 2 rows, or one for all, got 3"),
    ],
)
async def test_an_override_that_can_not_be_is_refused(
    ask: Any, request_of: RequestOf, name: str, value: Any, words: str
) -> None:
    """An unknown feature, one that nobody takes, another datatype and other rows are INVALID_ARGUMENT."""
    with pytest.raises(InvalidRequest, match=words):
        await ask(request_of({"card_id": [b"fresh", b"old"], name: value}), overrides="on")


async def test_an_override_twice_is_refused(ask: Any, request_of: RequestOf) -> None:
    """By both of its names a feature could have two values."""
    value = np.ones((1, 1), np.float32)
    given = {"infermesh_feature.limit": value, "infermesh_feature.card.limit": value}

    with pytest.raises(InvalidRequest, match="expected once, got it twice"):
        await ask(request_of({"card_id": [b"fresh"], **given}), overrides="on")


async def test_who_may_override_is_a_setting(ask: Any, request_of: RequestOf) -> None:
    """Nobody unless the file says so; or tenants by name."""
    request = request_of({"card_id": [b"fresh"], "infermesh_feature.limit": np.ones((1, 1), np.float32)})

    with pytest.raises(InvalidRequest, match=r"can't be overridden here \(overrides: off\)"):
        await ask(request)
    with pytest.raises(PermissionDenied, match='the tenant "acme"'):
        await ask(request, tenant="acme", overrides=["quality"])
    response = await ask(request, tenant="quality", overrides=["quality"])
    assert response.parameters["infermesh_feature_overrides"].string_param == "card.limit"


async def test_values_and_ages_are_counted(
    feature_metrics: FeatureMetrics, counted: Callable[..., float], request_of: RequestOf
) -> None:
    """Each value that a model gets by its status, and the age of the oldest row of each request; a default has no age."""
    service = {"inputs": INPUTS, "overrides": "on"}
    file = FeatureFile.model_validate({"views": {"card": CARD}, "services": {"m": service}})
    plan = JoinPlan(file, file.services["m"], prefix="p", max_entities=100, tally=feature_metrics.tally)

    def join(*ids: bytes, **given: Any) -> None:
        request = request_of({"card_id": list(ids), **given})
        entities = plan.read(request)
        assert entities is not None
        plan.join(request, entities, [ROWS.get(key) for key in plan.keys(entities)], NOW_US + 5_000_000)

    join(b"fresh")
    join(b"fresh", b"null", b"old", b"nobody")
    join(b"nobody", **{"infermesh_feature.limit": np.ones((1, 1), np.float32)})

    def values(status: str) -> float:
        return counted("infermesh_transformer_feature_values_total", view="card", status=status)

    found = {status.word: values(status.word) for status in Status}
    assert found == {"present": 8, "null": 1, "missing": 5, "stale": 3, "defaulted": 0, "overridden": 1, "cached": 0}
    assert counted("infermesh_transformer_feature_age_seconds_count", view="card") == 2
    assert counted("infermesh_transformer_feature_age_seconds_sum", view="card") == pytest.approx(3610)
    assert counted("infermesh_transformer_entities_total", view="card", status="missing") == 2


async def test_hashes_and_packed_rows_are_joined_in_one_request(
    client: Redis,
    redis_config: RedisConfig,
    feature_metrics: FeatureMetrics,
    model: Infer,
    asked: list[pb.ModelInferRequest],
    recorder: Callable[..., Any],
    request_of: RequestOf,
) -> None:
    """A view whose rows are plain hashes stands beside one of packed rows; an id that comes twice is asked for once."""
    shop = {"entity": {"name": "shop_id"}, "layout": "hash", "features": [{"name": "risk"}], "missing": "fail"}
    inputs = {"x": {"columns": ["card.limit", "shop.risk"]}}
    file = FeatureFile.model_validate({"views": {"card": CARD, "shop": shop}, "services": {"m": {"inputs": inputs}}})
    prefix = redis_config.key_prefix
    await client.set(f"{prefix}:card:a", ROWS[b"p:card:fresh"])
    await client.hset(f"{prefix}:shop:s", "risk", "0.25")  # type: ignore[misc]  # redis-py's types know no asyncio here
    plan = JoinPlan(file, file.services["m"], prefix=prefix, max_entities=100)
    store = FeatureStore(redis_config, feature_metrics)
    join = JoinFeatures({"m": plan}, store, recorder(), clock=lambda: NOW_US / 1e6)

    await join(request_of({"card_id": [b"a", b"b"], "shop_id": [b"s", b"s"]}), Call(), model)
    await store.close()

    assert read_inputs(asked[0])["x"].tolist() == [[10, 0.25], [100, 0.25]]


def test_the_age_is_that_of_what_was_served(feature_metrics: FeatureMetrics, request_of: RequestOf) -> None:
    """A source group of which a service takes nothing says nothing about the age of what it got."""
    features = [{"name": "a", "group": "fast"}, {"name": "b", "group": "slow"}]
    view = {"entity": {"name": "id"}, "groups": {"fast": {}, "slow": {}}, "features": features}
    declared = {"views": {"card": view}, "services": {"m": {"inputs": {"x": {"feature": "card.a"}}}}}
    file = FeatureFile.model_validate(declared)
    plan = JoinPlan(file, file.services["m"], prefix="p", max_entities=9, tally=feature_metrics.tally)
    row = RowFormat(file.views["card"].columns).pack([1.0, 2.0], (NOW_US - 2_000_000, NOW_US - 400 * 24 * HOUR_US))

    for ids in ([b"x"], [b"x", b"y"]):
        request = request_of({"id": ids})
        entities = plan.read(request)
        assert entities is not None
        plan.join(request, entities, [row] * len(ids), NOW_US)

    ages = feature_metrics.tally("card").ages
    assert (ages.count, ages.sum) == (2, 4.0)
