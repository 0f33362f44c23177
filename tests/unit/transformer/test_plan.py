"""From a request with ids to the model's request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from infermesh.errors import InvalidRequest, MeshError, ResourceExhausted
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import DATATYPES, add_inputs, read_inputs
from services.transformer.config import RedisConfig
from services.transformer.plan import JoinPlan
from services.transformer.policy import Served
from services.transformer.row import RowFormat

PlanOf = Callable[..., JoinPlan]
RequestOf = Callable[..., pb.ModelInferRequest]

LAYOUT = RowFormat([("limit", "FP32"), ("declines", "FP32")])
INPUTS = {"x": {"columns": ["card.*"]}}
NAN_WITH_PAYLOAD = np.array([[0x7FC12345], [0x80000000]], "<u4").view("<f4")


@pytest.fixture
def plan(plan_of: PlanOf, card: dict[str, Any]) -> JoinPlan:
    return plan_of({"card": card}, INPUTS)


def row(*values: float, event_time_us: int = 1_700_000_000_000_000) -> bytes:
    return LAYOUT.pack(values, event_time_us)


def joined(
    plan: JoinPlan, request: pb.ModelInferRequest, found: list[bytes | None], now_us: int
) -> pb.ModelInferRequest:
    entities = plan.read(request)
    assert entities is not None
    return plan.join(request, entities, found, now_us)[0]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_ids_are_replaced_by_features(plan: JoinPlan, request_of: RequestOf, now_us: int, raw: bool) -> None:
    """The input with the ids goes, the looked-up matrix comes, raw in a raw request and typed in a typed one."""
    amount = NAN_WITH_PAYLOAD
    request = request_of({"card_id": [b"c-1", b"c-2"], "amount": amount}, raw=raw)

    sent = joined(plan, request, [row(1, 2), row(3, 4)], now_us)

    arrays = read_inputs(sent)
    assert list(arrays) == ["amount", "x"]
    assert arrays["x"].tolist() == [[1, 2], [3, 4]]
    assert len(sent.raw_input_contents) == (2 if raw else 0)
    assert all(tensor.HasField("contents") is not raw for tensor in sent.inputs)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_other_inputs_pass_bit_for_bit(plan: JoinPlan, request_of: RequestOf, now_us: int, raw: bool) -> None:
    """What is not looked up is the same bytes after the join: NaN payloads, negative zeros, texts that are no UTF-8."""
    others = {"amount": NAN_WITH_PAYLOAD, "text": np.array([[b"\xff\x00"], [b""]], np.object_)}
    request = request_of({"card_id": [b"c-1", b"c-2"], **others}, raw=raw)
    request.inputs[1].parameters["unit"].string_param = "EUR"

    sent = joined(plan, request, [row(1, 2), row(3, 4)], now_us)

    assert [t.SerializeToString() for t in sent.inputs[:2]] == [t.SerializeToString() for t in request.inputs[1:]]
    assert list(sent.raw_input_contents[:2]) == list(request.raw_input_contents[1:])


def test_every_datatype_passes(plan: JoinPlan, now_us: int) -> None:
    """An input of any datatype beside the ids reaches the model as it came."""
    for name, datatype in DATATYPES.items():
        request = pb.ModelInferRequest(model_name="m")
        array = np.array([[b"\x01"]], np.object_) if name == "BYTES" else np.ones((1, 1), datatype.dtype)
        add_inputs(request, {"card_id": np.array([b"c-1"], np.object_)})
        add_inputs(request, {"other": array}, datatypes={"other": name})

        sent = joined(plan, request, [row(1, 2)], now_us)

        assert (sent.inputs[0], sent.raw_input_contents[0]) == (request.inputs[1], request.raw_input_contents[1])


def test_the_rest_of_a_request_survives(plan: JoinPlan, request_of: RequestOf, now_us: int) -> None:
    """Id, version, parameters, requested outputs and fields that nobody knows go on to the model."""
    request = request_of({"card_id": [b"c-1"]}, model_version="2", id="42")
    request.parameters["priority"].uint64_param = 7
    request.outputs.add(name="label").parameters["classification"].int64_param = 1
    unknown = pb.ModelInferRequest.FromString(request.SerializeToString() + b"\xfa\x7f\x03abc")

    sent = joined(plan, unknown, [row(1, 2)], now_us)

    assert (sent.model_name, sent.model_version, sent.id) == ("m", "2", "42")
    assert (sent.parameters, sent.outputs) == (request.parameters, request.outputs)
    assert b"\xfa\x7f\x03abc" in sent.SerializeToString()


def test_the_senders_request_is_not_changed(plan: JoinPlan, request_of: RequestOf, now_us: int) -> None:
    """A request belongs to its sender: joining works on a copy."""
    request = request_of({"card_id": [b"c-1"], "amount": np.ones((1, 1), np.float32)})
    before = request.SerializeToString()

    joined(plan, request, [row(1, 2)], now_us)

    assert request.SerializeToString() == before


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_ids_may_be_a_vector_or_a_column(plan: JoinPlan, shape: tuple[int, ...], raw: bool) -> None:
    """Ids come as [N] or [N, 1], raw or typed, and name the same keys."""
    request = pb.ModelInferRequest(model_name="m")
    add_inputs(request, {"card_id": np.array([b"c-1", b"\xff{x}"], np.object_).reshape(shape)}, raw=raw)

    entities = plan.read(request)

    assert entities is not None
    assert plan.keys(entities) == [b"p:card:c-1", b"p:card:\xff{x}"]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_whole_numbers_may_be_ids(plan_of: PlanOf, card: dict[str, Any], raw: bool) -> None:
    """Ids of type int come as INT64 and stand in the key as decimal text."""
    plan = plan_of({"card": {**card, "entity": {"name": "card_id", "type": "int"}}}, INPUTS)
    request = pb.ModelInferRequest(model_name="m")
    add_inputs(request, {"card_id": np.array([[7], [-(2**63)]], np.int64)}, raw=raw)

    entities = plan.read(request)

    assert entities is not None
    assert plan.keys(entities) == [b"p:card:7", b"p:card:-9223372036854775808"]


def test_no_entities_make_no_rows(plan: JoinPlan, request_of: RequestOf, now_us: int) -> None:
    """A request for zero entities is legal, and becomes one for zero rows."""
    sent = joined(plan, request_of({"card_id": [], "amount": np.ones((0, 1), np.float32)}), [], now_us)

    assert read_inputs(sent)["x"].shape == (0, 2)


def test_one_view_may_be_used_twice(plan_of: PlanOf, card: dict[str, Any], request_of: RequestOf, now_us: int) -> None:
    """Payer and payee may both be cards: two inputs with ids, one view, columns in the declared order."""
    plan = plan_of(
        {"card": card},
        {"x": {"columns": ["payee.limit", "payer.*"]}, "declines": {"feature": "payee.declines", "rank": 1}},
        views={"payer": {"view": "card", "entity": "from"}, "payee": {"view": "card", "entity": "to"}},
    )
    request = request_of({"from": [b"a"], "to": [b"b"]})
    entities = plan.read(request)
    assert entities is not None
    stored = {b"p:card:a": row(1, 2), b"p:card:b": row(3, 4)}

    sent, served = plan.join(request, entities, [stored[key] for key in plan.keys(entities)], now_us)

    arrays = read_inputs(sent)
    assert arrays["x"].tolist() == [[3, 1, 2]]
    assert arrays["declines"].tolist() == [4]
    assert served is Served.PRESENT


def test_the_worst_of_several_views_is_told(
    plan_of: PlanOf, card: dict[str, Any], request_of: RequestOf, now_us: int
) -> None:
    """A request over two views is as good as the worse of them."""
    shop = {**card, "entity": {"name": "shop_id"}}
    plan = plan_of({"card": card, "shop": shop}, {"x": {"columns": ["card.*", "shop.*"]}})
    request = request_of({"card_id": [b"a"], "shop_id": [b"b"]})
    entities = plan.read(request)
    assert entities is not None

    _, stale = plan.join(request, entities, [row(1, 2), row(3, 4, event_time_us=0)], now_us)
    _, defaulted = plan.join(request, entities, [None, row(3, 4, event_time_us=0)], now_us)

    assert (stale, defaulted) == (Served.STALE, Served.DEFAULTED)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_inputs_of_the_request_may_be_renamed(
    plan_of: PlanOf, card: dict[str, Any], request_of: RequestOf, now_us: int, raw: bool
) -> None:
    """An input goes to the model under another name where the file says so, the ids too, with its content untouched."""
    plan = plan_of({"card": card}, {**INPUTS, "amount": {"request": "sum"}, "card": {"request": "card_id"}})
    request = request_of({"card_id": [b"c-1"], "sum": np.array([[9.5]], np.float32)}, raw=raw)

    sent = joined(plan, request, [row(1, 2)], now_us)

    arrays = {name: array.tolist() for name, array in read_inputs(sent).items()}
    assert arrays == {"card": [[b"c-1"]], "amount": [[9.5]], "x": [[1, 2]]}


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_a_request_with_the_models_inputs_is_the_models_already(
    plan: JoinPlan, request_of: RequestOf, raw: bool
) -> None:
    """A request that brings what would be looked up, and no ids, needs no join: what-if calls and explainers send such."""
    assert plan.read(request_of({"x": np.ones((1, 2), np.float32), "amount": np.ones((1, 1))}, raw=raw)) is None


def _bytes_column(request: pb.ModelInferRequest, *ids: bytes) -> None:
    add_inputs(request, {"card_id": np.array(ids, np.object_).reshape(-1, 1)})


def _no_ids(request: pb.ModelInferRequest) -> None:
    add_inputs(request, {"amount": np.ones((1, 1), np.float32)})


def _both(request: pb.ModelInferRequest) -> None:
    _bytes_column(request, b"c-1")
    add_inputs(request, {"x": np.ones((1, 2), np.float32)})


def _twice(request: pb.ModelInferRequest) -> None:
    _bytes_column(request, b"c-1")
    _bytes_column(request, b"c-1")


def _numbers(request: pb.ModelInferRequest) -> None:
    add_inputs(request, {"card_id": np.ones((1, 1), np.int64)})


def _matrix(request: pb.ModelInferRequest) -> None:
    add_inputs(request, {"card_id": np.array([[b"a", b"b"]], np.object_)})


def _scalar(request: pb.ModelInferRequest) -> None:
    add_inputs(request, {"card_id": np.array(b"a", np.object_)})


def _other_rows(request: pb.ModelInferRequest) -> None:
    _bytes_column(request, b"c-1", b"c-2")
    add_inputs(request, {"amount": np.ones((3, 1), np.float32)})


def _raw_missing(request: pb.ModelInferRequest) -> None:
    _both(request)
    del request.raw_input_contents[1]


def _truncated(request: pb.ModelInferRequest) -> None:
    _bytes_column(request, b"c-1")
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


def _raw_and_typed(request: pb.ModelInferRequest) -> None:
    _bytes_column(request, b"c-1")
    request.inputs[0].contents.bytes_contents.append(b"c-1")


def _neither(request: pb.ModelInferRequest) -> None:
    request.inputs.add(name="card_id", datatype="BYTES", shape=[1])


@pytest.mark.parametrize(
    ("make", "reason", "words"),
    [
        (
            _no_ids,
            "INPUT_MISSING",
            'input "card_id": missing: expected BYTES \\[N, 1\\] with the ids to look up, or "x"',
        ),
        (_both, "INPUT_UNEXPECTED", 'input "x": is looked up by "card_id"; send one of the two'),
        (_twice, "INPUT_DUPLICATE", 'input "card_id": expected once, got it twice'),
        (_numbers, "INPUT_DATATYPE", 'input "card_id": expected BYTES \\[N\\] or \\[N, 1\\], got "INT64" \\[1, 1\\]'),
        (_matrix, "INPUT_SHAPE", 'got "BYTES" \\[1, 2\\]'),
        (_scalar, "INPUT_SHAPE", 'got "BYTES" \\[\\]'),
        (_other_rows, "INPUT_ROWS", 'input "amount": expected 2 rows as in "card_id", got 3'),
        (
            lambda r: _bytes_column(r, b"c-1", b""),
            "ENTITY_ID",
            "row 1: expected an id of 1 to 512 bytes, got an empty one",
        ),
        (lambda r: _bytes_column(r, b"x" * 2**20), "ENTITY_ID", "got one of 1048576 bytes"),
        (_raw_missing, "RAW_COUNT", "expected one raw_input_contents entry for each of 2 inputs, got 1"),
        (_truncated, "BYTES_TRUNCATED", 'input "card_id": BYTES: element 0'),
        (_raw_and_typed, "RAW_AND_TYPED", "got both"),
        (_neither, "CONTENTS_MISSING", "got neither"),
    ],
)
def test_a_request_that_can_not_be_joined_is_refused(
    plan: JoinPlan, make: Callable[[pb.ModelInferRequest], None], reason: str, words: str
) -> None:
    """What is wrong with the ids, or beside them, is INVALID_ARGUMENT with the input and what would be right."""
    request = pb.ModelInferRequest(model_name="m")
    make(request)

    with pytest.raises(InvalidRequest, match=words) as refused:
        plan.read(request)

    assert refused.value.reason == reason
    assert 'model "m"' in refused.value.message


def test_some_of_the_looked_up_inputs_are_not_enough(
    plan_of: PlanOf, card: dict[str, Any], request_of: RequestOf
) -> None:
    """A request that brings one of two looked-up inputs, and no ids, is not complete."""
    plan = plan_of({"card": card}, {**INPUTS, "y": {"feature": "card.limit"}})

    with pytest.raises(InvalidRequest, match=r'"card_id": missing: .* or "x", "y" in its place'):
        plan.read(request_of({"x": np.ones((1, 2), np.float32)}))


def test_a_shared_input_needs_no_row_for_each_entity(
    plan_of: PlanOf, card: dict[str, Any], request_of: RequestOf
) -> None:
    """An input that the file calls shared may have any number of rows."""
    plan = plan_of({"card": card}, INPUTS, shared=["threshold"])

    assert plan.read(request_of({"card_id": [b"a", b"b"], "threshold": np.ones((1,), np.float32)})) is not None


def test_too_many_entities_are_refused_before_they_are_read(plan_of: PlanOf, card: dict[str, Any]) -> None:
    """Past the bound the answer is RESOURCE_EXHAUSTED, by the shape alone, so that nothing is allocated for it."""
    plan = plan_of({"card": card}, INPUTS, max_entities=2)
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[b""])
    request.inputs.add(name="card_id", datatype="BYTES", shape=[2**40])

    with pytest.raises(MeshError, match="1099511627776 entities, at most 2") as refused:
        plan.read(request)

    assert isinstance(refused.value, ResourceExhausted)
    assert not refused.value.rejected  # or gateways would send it again


def test_ten_thousand_entities_are_not_too_many(plan_of: PlanOf, card: dict[str, Any], request_of: RequestOf) -> None:
    """By default a request of 10,000 entities is served, and no more than a lookup's timeout allows for."""
    plan = plan_of({"card": card}, INPUTS, max_entities=RedisConfig().max_entities)

    entities = plan.read(request_of({"card_id": [b"%d" % number for number in range(10_000)]}))
    with pytest.raises(ResourceExhausted, match="10001 entities, at most 10000"):
        plan.read(request_of({"card_id": [b"a"] * 10_001}))

    assert entities is not None
    assert entities.rows == 10_000
