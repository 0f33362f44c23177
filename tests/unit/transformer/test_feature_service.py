"""Feature services whose inputs are made of views, of fields of the request, of transforms and of a hook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from infermesh.config import ConfigError
from infermesh.errors import FailedPrecondition, Internal, InvalidRequest
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.telemetry import Metrics
from infermesh.tensors import read_inputs
from services.transformer.app import plans_of
from services.transformer.config import TransformerConfig
from services.transformer.describe import as_the_client_sees_it, faults_of
from services.transformer.hooks import HookFault
from services.transformer.metrics import FeatureMetrics
from services.transformer.plan import JoinPlan
from services.transformer.policy import Served
from services.transformer.views import FeatureFile
from tests.unit.transformer.cards import CARD, NOW_US, card_row

RequestOf = Callable[..., pb.ModelInferRequest]
ROWS: list[bytes | None] = [card_row(10, 2, "DE", [1, 2]), card_row(20, 0, "AT", [3, 4])]
REQUEST = {"amount": "FP64", "channel": "BYTES", "at": "INT64"}
FIELDS = {
    "amount": np.array([[np.e - 1], [0]], np.float64),
    "channel": np.array([b"web", b"shop"], np.object_),
    "at": np.array([1_719_835_200, 0], np.int64),  # noon in London in summer
}


def plan_for(inputs: dict[str, Any], **service: Any) -> JoinPlan:
    file = FeatureFile.model_validate({"views": {"card": CARD}, "services": {"m": {"inputs": inputs, **service}}})
    return JoinPlan(file, file.services["m"], prefix="p", max_entities=100)


def faults(inputs: dict[str, Any], **service: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        FeatureFile.model_validate({"views": {"card": CARD}, "services": {"m": {"inputs": inputs, **service}}})
    return str(refused.value)


def made(plan: JoinPlan, request: pb.ModelInferRequest, found: list[bytes | None] | None = None) -> dict[str, Any]:
    entities = plan.read(request)
    assert entities is not None
    sent, _ = plan.join(request, entities, (ROWS[: entities.rows] if found is None else found), NOW_US)
    return {name: array.tolist() for name, array in read_inputs(sent).items()}


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_an_input_may_mix_features_fields_and_transforms(request_of: RequestOf, raw: bool) -> None:
    """Columns stand in the declared order, each as its own chain of transforms makes it; fields are taken out of the request."""
    columns = [
        "card.limit",
        {"column": "request.amount", "transform": ["log1p", {"clip": [0, 0.5]}]},
        {"column": "request.channel", "transform": [{"one_hot": ["web", "shop"]}]},
        {"column": "request.at", "transform": [{"hour_of_day": "Europe/London"}]},
        {"ratio": ["request.amount", "card.declines"], "zero": -1},
        "card.taste",
    ]
    used = {"request": REQUEST}
    plan = plan_for({"x": {"columns": columns, "datatype": "FP32"}}, **used)

    arrays = made(plan, request_of({"card_id": [b"a", b"b"], "other": np.ones((2, 1)), **FIELDS}, raw=raw))

    assert list(arrays) == ["other", "x"]
    assert arrays["x"] == [
        [10, 0.5, 1, 0, 13, np.float32((np.e - 1) / 2), 1, 2],
        [20, 0, 0, 1, 1, -1, 3, 4],
    ]


def test_a_text_may_be_an_input(request_of: RequestOf) -> None:
    """A stored text goes to the model as BYTES, a hash of it as INT64, a vector as [N, k]."""
    inputs = {
        "country": {"feature": "card.country", "rank": 1},
        "bucket": {"feature": {"column": "card.country", "transform": [{"hash": 1000}]}},
        "taste": {"feature": "card.taste"},
    }

    arrays = made(plan_for(inputs), request_of({"card_id": [b"a", b"b"]}))

    assert arrays["country"] == [b"DE", b"AT"]
    assert arrays["bucket"][0] == [345]
    assert arrays["taste"] == [[1, 2], [3, 4]]


def test_a_field_goes_on_to_the_model_where_the_file_says_so(request_of: RequestOf) -> None:
    """A field of which a column is made stays an input under the name that is declared for it."""
    inputs = {"x": {"columns": ["card.limit", "request.amount"], "datatype": "FP64"}, "sum": {"request": "amount"}}

    arrays = made(
        plan_for(inputs, request={"amount": "FP64"}), request_of({"card_id": [b"a"], "amount": np.ones((1, 1))})
    )

    assert arrays == {"sum": [[1]], "x": [[10, 1]]}


def test_a_service_may_look_nothing_up(request_of: RequestOf) -> None:
    """Transforms of the request alone need no ids and no store."""
    inputs = {"x": {"columns": [{"column": "request.amount", "transform": ["log1p"]}]}}
    plan = plan_for(inputs, request={"amount": "FP32"})
    request = request_of({"amount": np.zeros((3, 1), np.float32)})

    entities = plan.read(request)
    assert entities is not None
    assert plan.keys(entities) == []
    sent, served = plan.join(request, entities, [], NOW_US)
    assert read_inputs(sent)["x"].tolist() == [[0], [0], [0]]
    assert served is Served.PRESENT


def test_one_row_of_a_shared_field_stands_for_all(request_of: RequestOf) -> None:
    """A field that is shared may come once for the whole request."""
    inputs = {"x": {"columns": ["card.limit", "request.amount"], "datatype": "FP64"}}
    plan = plan_for(inputs, request={"amount": "FP64"}, shared=["amount"])

    arrays = made(plan, request_of({"card_id": [b"a", b"b"], "amount": np.array([7.0])}))

    assert arrays["x"] == [[10, 7], [20, 7]]


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({}, 'input "amount": missing: expected FP64 \\[N, 1\\]'),
        ({"amount": np.ones((1, 1), np.float32)}, 'input "amount": expected FP64 \\[N\\] or \\[N, 1\\], got "FP32"'),
        ({"amount": np.ones((1, 2))}, 'got "FP64" \\[1, 2\\]'),
        ({"amount": np.ones((3, 1))}, "expected 1 rows"),
    ],
)
def test_a_field_that_can_not_be_read_is_refused(request_of: RequestOf, field: dict[str, Any], words: str) -> None:
    """Missing, of another datatype, of another width, of other rows: INVALID_ARGUMENT with what would be right."""
    plan = plan_for(
        {"x": {"columns": ["card.limit", "request.amount"], "datatype": "FP64"}}, request={"amount": "FP64"}
    )

    with pytest.raises(InvalidRequest, match=words):
        plan.read(request_of({"card_id": [b"a"], **field}))


def test_a_value_that_a_transform_refuses_is_told_to_whom_it_belongs(request_of: RequestOf) -> None:
    """A bad field is the caller's fault; a bad stored value is none, and names column and row."""
    strict = {"transform": [{"one_hot": {"values": ["DE"], "unknown": "fail"}}]}
    of_store = plan_for({"x": {"columns": [{"column": "card.country", **strict}]}})
    of_request = plan_for(
        {"x": {"columns": ["card.limit", {"column": "request.channel", **strict}], "datatype": "FP32"}},
        request={"channel": "BYTES"},
    )

    with pytest.raises(FailedPrecondition, match=r'column "card\.country": row 1: "AT" is none of the values'):
        made(of_store, request_of({"card_id": [b"a", b"b"]}))
    with pytest.raises(InvalidRequest, match=r'column "request\.channel": row 0: "web" is none'):
        made(of_request, request_of({"card_id": [b"a"], "channel": [b"web"]}))


def test_every_fault_of_a_service_with_fields_is_named() -> None:
    """Unknown fields, transforms that can't be, fields that nobody takes: all in one list, each with its place."""
    said = faults(
        {
            "x": {"columns": ["request.nobody", "shop.*"]},
            "y": {"columns": [{"ratio": ["card.*", "card.limit"]}]},
        },
        request={"amount": "FP32"},
    )
    assert 'services.m.inputs.x: "request.nobody": no such field; request has amount' in said
    assert 'services.m.inputs.x: "shop.*": no view "shop"' in said
    assert 'services.m.inputs.y: "card.*": expected one feature; a ratio is of two' in said

    said = faults(
        {
            "x": {"columns": [{"column": "card.country", "transform": ["log1p"]}]},
            "y": {"columns": ["card.limit", "card.country"]},
            "z": {"columns": ["card.limit"], "datatype": "INT64"},
        },
        request={"amount": "FP32"},
        shared=["card_id"],
    )
    assert 'services.m.inputs.x: "card.country": log1p: a BYTES column can\'t be taken' in said
    assert "services.m.inputs.y: datatype: needed, its columns are BYTES, FP32" in said
    assert "services.m.inputs.z: datatype: FP32 columns can't become INT64" in said
    assert "services.m.request.amount: no column is made of it" in said
    assert 'services.m.shared: "card_id" carries the ids of view "card"' in said


HOOK = {
    "function": "feature_hook_of_a_test:derive",
    "columns": ["card.limit", "request.amount"],
    "returns": {"ratio": "FP32"},
}
HOOKED = {"x": {"columns": ["card.limit", "hook.ratio"]}}


@pytest.fixture
def hook_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., JoinPlan]]:
    """The plan of a service whose hook is this text."""

    def plan(text: str, **hook: Any) -> JoinPlan:
        (tmp_path / "feature_hook_of_a_test.py").write_text(f"import numpy as np\n{text}\n")
        return plan_for(HOOKED, request={"amount": "FP64"}, hook={**HOOK, **hook})

    monkeypatch.syspath_prepend(tmp_path)
    yield plan
    sys.modules.pop("feature_hook_of_a_test", None)


def test_a_hook_makes_columns_of_columns(hook_of: Callable[..., JoinPlan], request_of: RequestOf) -> None:
    """The function gets arrays (N,) by the names of its columns, and the model what it returned, in the declared datatype."""
    plan = hook_of("def derive(columns): return {'ratio': columns['request.amount'] / columns['card.limit'].clip(1)}")

    arrays = made(plan, request_of({"card_id": [b"a", b"b"], "amount": np.array([5.0, 5.0])}))

    assert arrays["x"] == [[10, 0.5], [20, 0.25]]


def test_a_hook_can_not_change_what_it_gets(hook_of: Callable[..., JoinPlan], request_of: RequestOf) -> None:
    """A function that writes into its columns fails, and INTERNAL says nothing of what is inside."""
    text = "def derive(columns):\n    if len(columns['card.limit']) == 1: columns['card.limit'][0] = 7\n"
    plan = hook_of(text + "    return {'ratio': columns['card.limit']}")

    with pytest.raises(Internal) as failed:
        made(plan, request_of({"card_id": [b"a"], "amount": np.array([5.0])}))

    assert failed.value.message == "a feature hook failed"


def test_a_hook_may_refuse_a_request(hook_of: Callable[..., JoinPlan], request_of: RequestOf) -> None:
    """InvalidRequest from the hook is INVALID_ARGUMENT with its own words, and no fault at start."""
    plan = hook_of(
        "from infermesh.errors import InvalidRequest\ndef derive(columns): raise InvalidRequest('amount: too odd')"
    )

    with pytest.raises(InvalidRequest, match='model "m": amount: too odd'):
        made(plan, request_of({"card_id": [b"a"], "amount": np.array([5.0])}))


@pytest.mark.parametrize(
    ("text", "hook", "words"),
    [
        ("", {}, 'the module "feature_hook_of_a_test" has no "derive"'),
        ("raise RuntimeError('no')", {}, "can't be imported: RuntimeError: no"),
        ("async def derive(columns): ...", {}, "expected a function that is not async"),
        ("def derive(): ...", {}, "expected a function of one argument"),
        ("def derive(columns): return 1 / 0", {}, "fails on 2 rows of zeros: ZeroDivisionError"),
        ("def derive(columns): return 7", {}, "expected a dict of columns by name, got int"),
        ("def derive(columns): return {'other': 7}", {}, "expected the columns ratio, got other"),
        ("def derive(columns): return {'ratio': np.zeros(3)}", {}, r"expected the shape \[2\], got \[3\]"),
        ("def derive(columns): return {'ratio': np.zeros(2, object)}", {}, "expected FP32, got object"),
        ("", {"function": "no_such_module:derive"}, 'no module "no_such_module" on the path of Python'),
        ("", {"function": "os:system"}, 'expected a module of your own, "os" is none'),
    ],
)
def test_a_hook_that_can_not_be_used_is_found_at_start(
    hook_of: Callable[..., JoinPlan], text: str, hook: dict[str, Any], words: str
) -> None:
    """Module, function, signature, and what it returns for two rows are checked before there is a request."""
    with pytest.raises(HookFault, match=words):
        hook_of(text, **hook)


def test_the_service_does_not_start_without_its_hooks(tmp_path: Path) -> None:
    """All hooks that can't be used are told at once, each with its service, as a fault of the feature file."""
    hook = {"columns": ["card.limit"], "returns": {"ratio": "FP32"}}
    services = {
        name: {"inputs": HOOKED, "hook": {"function": f"no_such_module:{name}", **hook}} for name in ("one", "two")
    }
    (tmp_path / "features.yaml").write_text(yaml.safe_dump({"views": {"card": CARD}, "services": services}))
    config = TransformerConfig(features=tmp_path / "features.yaml")

    with pytest.raises(ConfigError) as refused:
        plans_of(config, FeatureMetrics(Metrics("transformer"), ["card"], services))

    assert "services.one.hook: no_such_module:one: no module" in str(refused.value)
    assert "services.two.hook: no_such_module:two: no module" in str(refused.value)


def test_metadata_says_which_fields_a_client_sends() -> None:
    """Ids come first, then the fields of which columns are made, then what the model takes as it is."""
    inputs = {"x": {"columns": ["card.limit", "request.amount"], "datatype": "FP64"}, "sum": {"request": "amount"}}
    plan = plan_for(inputs, request={"amount": "FP64"})
    tensor = pb.ModelMetadataResponse.TensorMetadata
    model = pb.ModelMetadataResponse(
        inputs=[
            tensor(name="x", datatype="FP64", shape=[-1, 2]),
            tensor(name="sum", datatype="FP64", shape=[-1, 1]),
            tensor(name="other", datatype="BYTES", shape=[-1]),
        ]
    )

    seen = as_the_client_sees_it(model, plan)

    assert [(t.name, t.datatype, list(t.shape)) for t in seen.inputs] == [
        ("card_id", "BYTES", [-1, 1]),
        ("amount", "FP64", [-1, 1]),
        ("other", "BYTES", [-1]),
    ]
    assert faults_of(model, plan) == []
    model.inputs[0].datatype, model.inputs[1].datatype = "FP32", "FP32"
    model.inputs[0].shape[:] = [-1, 7]
    assert faults_of(model, plan) == [
        'input "x": the model takes FP32, the feature file makes FP64',
        'input "x": the model takes [-1, 7], the feature file makes [-1, 2]',
        'input "sum": the model takes FP32, the feature file takes "amount" as FP64',
    ]
