"""Entities of several keys: what the ids of a request name together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from infermesh.errors import InvalidRequest
from infermesh.protocol import open_inference_pb2 as pb
from infermesh.tensors import read_inputs
from services.transformer.entities import read_ids
from services.transformer.keys import joined_ids
from services.transformer.plan import JoinPlan
from services.transformer.row import RowFormat
from services.transformer.views import FeatureFile

RequestOf = Callable[..., pb.ModelInferRequest]
VIEW = {
    "entity": {"name": "visit", "keys": [{"name": "card_id"}, {"name": "shop_id", "type": "int"}]},
    "features": [{"name": "spent"}],
}
ROW = RowFormat([("spent", "FP32")])


def plan_for(**service: Any) -> JoinPlan:
    declared = {"inputs": {"x": {"columns": ["visits.*"]}}, **service}
    file = FeatureFile.model_validate({"views": {"visits": VIEW}, "services": {"m": declared}})
    return JoinPlan(file, file.services["m"], prefix="p", max_entities=100)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_several_ids_name_one_entity(request_of: RequestOf, raw: bool) -> None:
    """The key holds both ids in the order of the view, whatever the order of the request; both inputs are taken out."""
    plan = plan_for()
    request = request_of({"shop_id": np.array([7, -8]), "card_id": [b"a:1", b"b%"]}, raw=raw)

    entities = plan.read(request)
    assert entities is not None
    keys = plan.keys(entities)
    sent, _ = plan.join(request, entities, [ROW.pack([1.5], 0), ROW.pack([2.5], 0)], 0)

    assert keys == [b"p:visits:a%3A1:7", b"p:visits:b%25:-8"]
    assert {name: array.tolist() for name, array in read_inputs(sent).items()} == {"x": [[1.5], [2.5]]}


@given(*[st.lists(st.binary(min_size=1, max_size=6), min_size=2, max_size=3)] * 2)
def test_two_entities_never_have_one_key(some: list[bytes], others: list[bytes]) -> None:
    """Ids that differ, in whatever bytes, name different rows of a view."""
    if len(some) == len(others):
        assert (joined_ids(some) == joined_ids(others)) is (some == others)


def test_ids_that_differ_by_encoding_are_two_entities(request_of: RequestOf) -> None:
    """An umlaut as one code point, as two, and in Latin-1 are three ids: bytes are compared and nothing else."""
    ids = ["Z\u00fcrich".encode(), "Zu\u0308rich".encode(), "Z\u00fcrich".encode("latin-1")]
    plan = plan_for()

    entities = plan.read(request_of({"card_id": ids, "shop_id": np.array([1, 1, 1])}))

    assert entities is not None
    assert len(set(plan.keys(entities))) == 3


def test_ids_may_come_under_other_names(request_of: RequestOf) -> None:
    """A service says for each key which input carries it."""
    plan = plan_for(views={"v": {"view": "visits", "entity": {"card_id": "payer"}}}, inputs={"x": {"columns": ["v.*"]}})

    entities = plan.read(request_of({"payer": [b"a"], "shop_id": np.array([7])}))

    assert plan.entities == {"payer": "BYTES", "shop_id": "INT64"}
    assert entities is not None
    assert plan.keys(entities) == [b"p:visits:a:7"]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"card_id": [b"a"]}, 'input "shop_id": missing: expected INT64'),
        (
            {"card_id": [b"a", b"b"], "shop_id": np.array([1])},
            'input "shop_id": expected 2 rows as in "card_id", got 1',
        ),
        ({"card_id": [b""], "shop_id": np.array([1])}, 'input "card_id": row 0: expected an id of 1 to 512 bytes'),
        ({"card_id": [b"x" * 2**20], "shop_id": np.array([1])}, "got one of 1048576 bytes"),
    ],
)
def test_ids_that_do_not_belong_together_are_refused(request_of: RequestOf, inputs: dict[str, Any], words: str) -> None:
    """A missing input, other rows, an empty id and one of 1 MiB are told by the input's name."""
    with pytest.raises(InvalidRequest, match=words):
        plan_for().read(request_of(inputs))


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ({"views": {"v": {"view": "visits", "entity": "id"}}}, "expected an input for each of card_id, shop_id"),
        (
            {"views": {"v": {"view": "visits", "entity": {"shop": "id"}}}},
            'no key "shop"; the entity has card_id, shop_id',
        ),
    ],
)
def test_a_service_that_names_the_ids_wrongly_is_refused(service: dict[str, Any], words: str) -> None:
    """One name for several keys, and a key that there is not, are faults of the file."""
    with pytest.raises(ValidationError, match=words):
        plan_for(**service, inputs={"x": {"columns": ["v.*"]}})


def test_long_ids_are_refused_by_what_their_lengths_say(monkeypatch: pytest.MonkeyPatch, request_of: RequestOf) -> None:
    """60 ids of 1 MiB, or one of 64 MB, are not copied to find out that they are too long."""

    def read(*_: object) -> None:
        pytest.fail("the ids were read")

    monkeypatch.setattr("services.transformer.entities.read_input", read)
    for ids, row in (([b"x" * 2**20] * 60, 0), ([b"a", b"x" * 1100], 1), ([b"x" * 513], 0)):
        request = request_of({"id": ids})

        with pytest.raises(InvalidRequest, match=rf"row {row}: .* got one of {len(ids[-1])} bytes"):
            read_ids(request, "id", 0, "BYTES", 100)


CUT_OFF = b"\x01\x00\x00\x00a" + (5_000).to_bytes(4, "little") + b"x" * 2_000


@pytest.mark.parametrize("raw", [CUT_OFF, CUT_OFF[:7] + bytes(2_000), bytes(2_000)], ids=["cut off", "more", "empties"])
def test_lengths_that_lead_nowhere_are_told_as_of_any_input(raw: bytes) -> None:
    """What is no BYTES tensor of two elements is refused with the words that hold for every tensor of texts."""
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[raw])
    request.inputs.add(name="id", datatype="BYTES", shape=[2])

    with pytest.raises(InvalidRequest, match='input "id": BYTES: ') as refused:
        read_ids(request, "id", 0, "BYTES", 100)

    assert refused.value.reason != "ENTITY_ID"
